"""The demonstration as one job: it warms up on one slice, stops when asked, and writes all of its files or none."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from medquant.demo import DemoCase, run_demo
from medquant.embedded.phantom import make_phantom
from medquant.errors import Cancelled, UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection, Model
from medquant.models.registry import load_model
from medquant.progress import ProgressEvent
from medquant.prompts import Box, BoxPrompt
from medquant.recipe import Recipe


@pytest.fixture(scope="module")
def case() -> DemoCase:
    """Four slices of a coarse phantom, and one box through all of them."""
    array, _, _, affine = make_phantom(0, (4, 64, 64), (12.0, 6.0, 6.0))
    liver = Box((8, 10, 0), (50, 55, 3), name="liver")
    return DemoCase(Volume(array, affine, name="ct", modality="CT"), scan="phantom", prompt=BoxPrompt((liver,)))


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("embedded", device="cpu")


def test_warming_up_takes_one_slice_and_is_told(model: Model, case: DemoCase, tmp_path: Path) -> None:
    encoded: list[int] = []
    events: list[ProgressEvent] = []
    hook = model.network.vision_encoder.register_forward_hook(lambda *_: encoded.append(len(events)))

    def when_the_real_work_begins() -> bool:
        return bool(events) and events[-1].message.startswith("FP32")

    try:
        with pytest.raises(Cancelled):
            run_demo(model, case, tmp_path / "out", progress=events.append, cancelled=when_the_real_work_begins)
    finally:
        hook.remove()
    assert len(encoded) <= 1 + 1, "one slice to warm up; the first of the real ones may have begun"
    assert events[0].message == "Warming up: Slice 1 of 1"
    assert not (tmp_path / "out").exists()


def test_warming_up_can_be_stopped(model: Model, case: DemoCase, tmp_path: Path) -> None:
    encoded: list[torch.Tensor] = []
    hook = model.network.vision_encoder.register_forward_hook(lambda *_: encoded.append(1))
    try:
        with pytest.raises(Cancelled):
            run_demo(model, case, tmp_path / "out", cancelled=lambda: True)
    finally:
        hook.remove()
    assert encoded == []
    assert not (tmp_path / "out").exists()


def test_a_file_held_open_elsewhere_leaves_everything_as_it_was(
    model: Model, case: DemoCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to replace a file that another program has open, here the last one but one."""
    out = tmp_path / "out"
    out.mkdir()
    old = {name: f"old {name}" for name in ("fp32.seg.nrrd", "report.html", "comparison.json")}
    for name, text in old.items():
        (out / name).write_text(text)
    replace = Path.replace

    def held(self: Path, target: Path) -> Path:
        if out in (self.parent, Path(target).parent) and "comparison.json" in (self.name, Path(target).name):
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    selection, recipe = CalibrationSelection(count=1), Recipe(method="rtn")
    with pytest.raises(UserError, match=r"comparison\.json: it is open in another program.*Close it"):
        run_demo(model, case, out, bits=(8,), recipe=recipe, selection=selection)
    assert {path.name: path.read_text() for path in out.iterdir()} == old

    monkeypatch.undo()
    result = run_demo(model, case, out, bits=(8,), recipe=recipe, selection=selection)
    assert {path.name for path in out.iterdir()} == {path.name for path in result.files.values()}
    assert (out / "comparison.json").read_text() != old["comparison.json"]
