"""Weights are read without running anything, and files that are not weights are named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medquant.errors import UserError
from medquant.models.weight_files import fill, read_json, read_state_dict


class Evil:
    """Touches a file when it is unpickled the careless way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_every_format_gives_the_same_tensors(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state(), path)
    read = read_state_dict(path)
    assert read.keys() == state().keys() and all(torch.equal(read[k], v) for k, v in state().items())


def test_legacy_files_read(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state_dict(tmp_path / "old.pth")["0.weight"], state()["0.weight"])


def test_real_weights_saved_from_a_gpu_long_ago(test_data: Path) -> None:
    read = read_state_dict(test_data / "weights" / "allconvunet" / "allconvunet_tcia_fold2.pth")
    learned = [v for k, v in read.items() if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert sum(v.numel() for v in learned) == 883_740
    assert all(v.device.type == "cpu" for v in read.values())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "network_weights"])
def test_checkpoints_are_searched(key: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, key: {f"module._orig_mod.{k}": v for k, v in state().items()}}, tmp_path / "c.pth")
    assert read_state_dict(tmp_path / "c.pth").keys() == state().keys()


@pytest.mark.parametrize(
    "score",
    [np.float32(0.8), np.float64(0.8), np.int64(3), np.array([0.8, 0.9])],
    ids=["float32", "float64", "int64", "array"],
)
def test_scores_of_numpy_beside_the_weights_are_no_code(score: Any, tmp_path: Path) -> None:
    torch.save({"best_acc": score, "model": state()}, tmp_path / "c.pth")
    assert read_state_dict(tmp_path / "c.pth").keys() == state().keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_does_not_run(legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save(
        {"state_dict": state(), "extra": Evil(marker)},
        tmp_path / "evil.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(marker)))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(UserError, match=f"{name}.*(could run code|damaged)"):
            read_state_dict(tmp_path / name)
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"Save its state_dict alone"):
        read_state_dict(tmp_path / "module.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04broken", b"\x80\x02broken"])
def test_damaged_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"a\.(pth|safetensors) cannot be read as weights"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_truncated_files_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)({"w": torch.randn(400)}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_state_dict(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(UserError, match="There is no file"):
            read_state_dict(tmp_path / f"none{suffix}")
    with pytest.raises(UserError, match="is a folder"):
        read_state_dict(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the super-user may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(state(), path)
    path.chmod(0)
    with pytest.raises(UserError, match="may not be read"):
        read_state_dict(path)


def test_files_without_tensors_by_name(tmp_path: Path) -> None:
    for content in ([torch.zeros(2)], {"epoch": 3}, torch.zeros(3), {}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match="holds no state dict"):
            read_state_dict(tmp_path / "w.pth")


def test_fill_works_on_the_meta_device_in_float32_and_without_step_counters() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    given = {k: v.half() for k, v in state().items() if not k.endswith("num_batches_tracked")}
    fill(network, given, source="file", what="this network")
    assert torch.equal(network[0].weight, given["0.weight"].float())
    assert network[0].weight.dtype == torch.float32 and not network[0].weight.requires_grad


def test_json_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2")
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    for name, message in (("a", "not valid JSON"), ("b", "does not hold a JSON object"), ("c", "not valid JSON")):
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / f"{name}.json")
