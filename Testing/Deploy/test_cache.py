"""Compiled models on disk: whole entries or none, a bounded folder, nothing that a missing permission breaks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from medquant.deploy.cache import CompiledCache, cache_folder, fingerprint
from medquant.geometry import LayerGeometry
from medquant.grid import Grid
from medquant.layers import QuantizedLayer


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "new" / "folder")
    assert cache.read("a") is None
    assert cache.write("a", b"compiled")
    assert cache.read("a") == b"compiled"
    assert (cache.count(), [path.name for path in cache.folder.iterdir()]) == (1, ["a.compiled"])


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_dropped(tmp_path: Path, damage: str) -> None:
    cache = CompiledCache(tmp_path)
    cache.write("a", bytes(range(256)) * 8)
    path = tmp_path / "a.compiled"
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-9], "changed": data[:-9] + b"x" + data[-8:], "empty": b""}[damage])
    assert cache.read("a") is None
    assert not path.exists()
    assert cache.write("a", b"again") and cache.read("a") == b"again"


def test_the_entries_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, limit_bytes=3100)
    for number, key in enumerate("abc"):
        cache.write(key, bytes(1000))
        os.utime(tmp_path / f"{key}.compiled", (number, number))
    assert cache.read("a") is not None  # now the one used last
    cache.write("d", bytes(1000))
    assert cache.size_bytes() <= 3100
    assert [cache.read(key) is not None for key in "abcd"] == [True, False, True, True]


def test_an_entry_above_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, limit_bytes=100)
    assert not cache.write("a", bytes(101))
    assert cache.count() == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    cache = CompiledCache(in_the_way)
    assert not cache.write("a", b"data")
    assert cache.read("a") is None
    assert (cache.count(), cache.size_bytes(), cache.clear()) == (0, 0, 0)
    cache.drop("a")


def test_clearing_takes_what_an_interrupted_writer_left(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    cache.write("a", bytes(100))
    (tmp_path / ".writing-xyz").write_bytes(bytes(50))
    (tmp_path / "choices").mkdir()
    assert cache.clear() >= 150
    assert [path.name for path in tmp_path.iterdir()] == ["choices"]


def test_writers_at_once_leave_a_whole_entry(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    contents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda data: cache.write("a", data), contents))
        assert all(data in contents for data in pool.map(lambda _: cache.read("a"), range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.compiled"]


def test_the_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MEDQUANT_CACHE")
    assert "medquant" in str(cache_folder())


def test_a_fingerprint_changes_with_what_is_computed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.1), nn.BatchNorm2d(3))
    first = fingerprint(network, "fp32")
    assert fingerprint(network, "fp32") == first
    assert fingerprint(network, "bf16") != first
    for change in (
        lambda: network[0].weight.data[0, 0, 0, 0].add_(1e-3),
        lambda: setattr(network[0], "padding", (1, 1)),
        lambda: setattr(network[1], "negative_slope", 0.2),
        lambda: network[2].running_mean[0].add_(1.0),
        lambda: network.__setitem__(1, nn.ReLU()),
    ):
        before = fingerprint(network)
        change()
        assert fingerprint(network) != before


def test_a_fingerprint_knows_settings_that_are_data_classes() -> None:
    """The same codes, another stride."""

    def quantized(stride: int) -> QuantizedLayer:
        geometry = LayerGeometry.of(nn.Conv2d(1, 2, 3, stride=stride))
        grid = Grid(torch.ones(1, 2), torch.zeros(1, 2), 4, torch.zeros(9, dtype=torch.long))
        codes = torch.zeros(1, 9, 2, dtype=torch.uint8)
        return QuantizedLayer.from_solutions(geometry, 2, codes, [grid], None, None)

    assert fingerprint(quantized(1)) == fingerprint(quantized(1))
    assert fingerprint(quantized(1)) != fingerprint(quantized(2))


def test_a_network_edited_in_a_notebook_is_another_one() -> None:
    def network(activation: str) -> nn.Module:
        code = f"class Net(nn.Module):\n    def forward(self, x):\n        return torch.{activation}(x)\n"
        found: dict = {"nn": nn, "torch": torch, "__name__": "notebook"}
        exec(code, found)
        return found["Net"]()

    assert fingerprint(network("relu")) == fingerprint(network("relu"))
    assert fingerprint(network("relu")) != fingerprint(network("tanh"))
