"""What stays in memory between requests, and what goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from medquant.models.torch_program import TorchModel, from_module
from medquant.progress import Progress
from medquant.worker import measured, warm
from medquant.worker.warm import Warm


def _model(name: str) -> TorchModel:
    return from_module(nn.Sequential(nn.Linear(500, 500, bias=False)), name=name)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded."""
    loaded: list[str] = []

    def load(spec: str, **_: object) -> TorchModel:
        loaded.append(spec)
        return _model(spec)

    monkeypatch.setattr("medquant.models.registry.load_model", load)
    return loaded


def test_a_model_is_loaded_once(loads: list[str]) -> None:
    kept = Warm()
    assert kept.model("a", Progress()) is kept.model("a", Progress())
    assert loads == ["a"]
    kept.forget()
    kept.model("a", Progress())
    assert loads == ["a", "a"]


def test_a_file_that_was_replaced_is_loaded_again(loads: list[str], tmp_path: Path) -> None:
    kept, path = Warm(), tmp_path / "weights.pth"
    path.write_bytes(b"1")
    kept.model(str(path), Progress())
    kept.model(str(path), Progress())
    path.unlink()
    path.write_bytes(b"2")
    kept.model(str(path), Progress())
    assert loads == [str(path)] * 2


def test_what_was_used_longest_ago_goes_first(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MODELS_MB", 2.5)  # two models of one megabyte
    kept = Warm()
    for name in ("a", "b", "a", "c"):
        kept.model(name, Progress())
    loads.clear()
    for name in ("a", "c", "b"):
        kept.model(name, Progress())
    assert loads == ["b"]


def test_a_model_that_is_too_large_is_kept_as_long_as_it_is_in_use(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "MODELS_MB", 0.5)
    kept = Warm()
    assert kept.model("a", Progress()) is kept.model("a", Progress())
    kept.model("b", Progress())
    kept.model("a", Progress())
    assert loads == ["a", "b", "a"]


def test_twins_that_share_their_tensors_count_once(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MODELS_MB", 1.5)
    kept = Warm()
    first = kept.model("a", Progress())
    assert kept.executed("a", "pytorch", Progress()).network is first.network
    kept.model("a", Progress())
    assert loads == ["a"]


def test_the_same_scan_is_the_same_object(tmp_path: Path) -> None:
    kept = Warm()
    told = []
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.full((3, 4, 5), number, np.int16))
        told.append({"array": f"{number}.npy", "ijk_to_lps": np.eye(4).tolist(), "modality": "MR", "name": "scan"})
    first = kept.volume(tmp_path, told[0])
    assert kept.volume(tmp_path, dict(told[0])) is first
    assert first.modality == "MR" and not first.array.flags.writeable
    moved = {**told[0], "ijk_to_lps": np.diag([2.0, 1, 1, 1]).tolist()}
    assert kept.volume(tmp_path, moved) is not first
    for one in told[1:]:
        kept.volume(tmp_path, one)
    assert kept.volume(tmp_path, told[0]) is not first


def test_what_was_measured_is_remembered_but_not_of_single_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    measured.remember("a", "W4", seconds=1.5, per="slice")
    measured.remember("a", "W4", verdicts={"1f": "small loss"})
    measured.remember("a", "W4", verdicts={"2f": "masks as FP32"})
    measured.remember("a", "W4, 2 overrides", verdicts={"1f": "visible loss: look"})
    verdicts = {"1f": "small loss", "2f": "masks as FP32"}
    assert measured.recall("a", "W4") == {"seconds": 1.5, "per": "slice", "verdicts": verdicts}
    assert measured.recall("a", "W4, 2 overrides") == measured.recall("b", "W4") == {}
    (tmp_path / "measured.json").write_text("{damaged")
    assert measured.recall("a", "W4") == {}
    measured.remember("a", "W8", bytes=3)
    assert measured.recall("a", "W8") == {"bytes": 3}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path / "file"))
    measured.remember("a", "W4", seconds=1.5)
    measured.add({"spec": "a"})
    assert measured.recall("a", "W4") == {} and measured.added() == []
