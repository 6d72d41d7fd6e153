"""The presenter, the engine's process and the real worker together: from the scan to the table, as a user goes."""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_loop import EventLoop
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED, BoxInfo, Masks, VolumeInfo
from MedQuantSlicerLib.presenter import Presenter
from MedQuantSlicerLib.state import Shown, State

from medquant.imaging.reading import read_labels, read_volume

LIVER = 5
SLICES = (9, 11)


class ArrayHost:
    """An application whose scene is arrays."""

    def __init__(self, scan: Any, labels: np.ndarray) -> None:
        self.scan, self.labels = scan, labels
        self.reading = False
        self.drawn: list[BoxInfo] = []
        self.masks: dict[str, np.ndarray] = {}
        self.names: dict[str, dict[int, str]] = {}
        self.parts = 0
        self.position: tuple[float, ...] | None = None
        self.titles: tuple[str, str] | None = None
        self.layout_restored = False
        self.keeps: dict[str, str] = {}

    def masks_state(self, kind: str) -> str:
        return f"{zlib.crc32(self.masks[kind])} {self.names[kind]}" if kind in self.masks else ""

    def reference_state(self) -> str:
        return str(zlib.crc32(self.labels))

    def write_masks(self, kind: str, path: str, on_done: Callable, on_error: Callable) -> None:
        np.save(path, self.masks[kind])
        on_done(self.names[kind])

    def keep(self, what: str, text: str) -> None:
        self.keeps[what] = text

    def kept(self, what: str) -> str:
        return self.keeps.get(what, "")

    def set_aside(self, kind: str) -> Callable[[], None]:
        before = self.masks.get(kind)
        return lambda: self.masks.pop(kind, None) if before is None else self.masks.update({kind: before})

    def volume(self) -> VolumeInfo | None:
        if not self.reading:
            return None
        spacing = tuple(reversed(self.scan.spacing))
        return VolumeInfo("1", "ct", "CT", self.scan.shape, spacing, tuple(map(tuple, self.scan.affine.tolist())))

    def write_volume(self, path: str, on_done: Callable, on_error: Callable) -> None:
        np.save(path, self.scan.array)
        on_done()

    def boxes(self) -> Sequence[BoxInfo]:
        return tuple(self.drawn)

    def is_placing(self) -> bool:
        return False

    def write_reference(self, path: str, on_done: Callable, on_error: Callable) -> None:
        np.save(path, self.labels)
        on_done({LIVER: "liver"})

    def start_box(self, from_segment: bool = False) -> None:
        first, last = SLICES
        _, j, i = np.nonzero(self.labels[first : last + 1] == LIVER)
        ranges = ((i.min(), i.max()), (j.min(), j.max()), SLICES)
        corners = [tuple((self.scan.affine @ (*corner, 1.0))[:3].tolist()) for corner in itertools.product(*ranges)]
        self.drawn = [BoxInfo("liver", tuple(corners))]

    def show_masks(self, kind: str, masks: Masks, partial: bool) -> None:
        block = np.load(masks.file)
        if not partial:
            assert all(block.any(axis=axis).any() for axis in range(3)) and block.shape < self.scan.shape
            self.masks.pop(kind, None)
        whole = self.masks.setdefault(kind, np.zeros(self.scan.shape, np.uint8))
        whole[tuple(slice(at, at + size) for at, size in zip(masks.offset, block.shape, strict=True))] = block
        self.parts += partial
        self.names[kind] = masks.labels

    def remove_masks(self, kind: str) -> None:
        self.masks.pop(kind, None)

    def show_pair(self) -> None: ...

    def show_results(self, left_title: str, right_title: str, difference: bool) -> None:
        self.titles = (left_title, right_title)

    def restore_layout(self) -> None:
        self.layout_restored = True

    def jump_to(self, position: tuple[float, ...]) -> None:
        self.position = position

    def confirm(self, text: str) -> bool:
        return True

    def open_folder(self, path: str) -> None: ...

    def missing(self) -> None:
        return None

    def restarted(self) -> None: ...


@pytest.fixture
def host(test_data: Path) -> ArrayHost:
    """The abdominal CT."""
    scan = read_volume(test_data / "ct_abdomen_dicom" / "series")
    labels = read_labels(test_data / "ct_abdomen_dicom" / "labels.nii.gz", scan, names={LIVER: "liver"}).labels
    return ArrayHost(scan, labels)


def test_from_the_scan_to_the_table_and_back(loop: EventLoop, host: ArrayHost, tmp_path: Path) -> None:
    engine = loop.engine(sys.executable, "-m", "medquant", "worker")
    seen: list[Shown] = []
    presenter = Presenter(engine, host, seen.append)

    def wait(seconds: float = 120.0) -> Shown:
        loop.wait(lambda: presenter.shown.waiting is None, seconds)
        assert presenter.shown.problem is None, presenter.shown.problem
        return presenter.shown

    presenter.start()
    assert not engine.running
    host.reading = True
    presenter.volume_chosen()
    loop.wait(lambda: presenter.shown.choices[0].size and presenter.shown.machine)
    assert [choice.accuracy for choice in presenter.shown.choices] == ["not measured"] * 3
    listed = [line.spec for line in presenter.shown.models]
    assert listed == ["embedded", "embedded-nnunet", "embedded-unetr", "medsam"]

    # Four buttons: Quantize, Place box, Segment, and the slice that differs most.
    presenter.set_option("method", "rtn")
    presenter.set_option("slices", 1)
    presenter.set_option("activations", 0)  # in 8 bits, the default: Testing/Desktop
    presenter.set_option("runtime", "pytorch")
    presenter.quantize()
    assert presenter.shown.state is State.QUANTIZING
    assert wait().quantized_fits
    presenter.place_box()
    presenter.boxes_changed()
    assert presenter.shown.boxes == "1 box: liver"
    presenter.segment()
    shown = wait()
    assert any(one.waiting and one.waiting.text.startswith("Quantizing layer") for one in seen)
    assert host.parts >= 2
    assert {State.SEGMENTING, State.COMPARING} <= {one.state for one in seen}
    assert [row.title for row in shown.table.rows] == ["FP32", "4-bit", "liver"]
    assert host.titles == (shown.left_title, shown.right_title)
    assert shown.left_title.startswith("FP32  15 MB  ")
    assert shown.right_title.startswith(f"4-bit  {shown.quantized.split(': ')[1].partition(',')[0]}  ")
    assert host.names[FP32] == host.names[QUANTIZED] == {1: "liver"}
    truth = host.labels[SLICES[0] : SLICES[1] + 1] == LIVER
    found = host.masks[FP32][SLICES[0] : SLICES[1] + 1] == 1
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.9
    presenter.jump_to_worst()
    differs = (host.masks[FP32] != host.masks[QUANTIZED]).sum((1, 2))
    assert round(np.linalg.solve(host.scan.affine, [*host.position, 1.0])[2]) == differs.argmax()

    presenter.difference()
    assert (host.masks[DIFFERENCE] > 0).sum() == differs.sum()
    assert presenter.difference_per_slice()[0] == tuple(differs.tolist())
    presenter.reference_chosen("manual")
    assert "FP32 to reference" in wait().table.columns
    report = tmp_path / "report.html"
    presenter.save_report(str(report))
    assert str(report) in wait().notice and "manual" in report.read_text(encoding="utf-8")

    presenter.set_option("view", "one-at-a-time")
    presenter.find_sensitivity()

    def masks_are_measured() -> bool:
        found = presenter.shown.heatmap
        return found is not None and found.view == "one-at-a-time" and len(found.cells) > 3

    loop.wait(masks_are_measured, 60)
    presenter.find_sensitivity()
    assert presenter.shown.waiting.cancelling
    assert not wait().heatmap.complete
    worst = presenter.shown.heatmap.worst[0]
    presenter.layer_chosen(worst)
    assert sum(presenter.shown.layer.weights.counts) and "Dice against FP32" in presenter.shown.layer.text
    assert "Against the reference it costs" in presenter.shown.layer.text, "the one that is chosen"
    presenter.save_report(str(report))
    wait()
    assert f"<code>{worst}</code>" in report.read_text(encoding="utf-8"), "the map is in the report"
    presenter.keep_precise(worst)
    assert not presenter.shown.quantized_fits
    presenter.quantize()
    assert wait().quantized_fits
    presenter.export("artifact", str(tmp_path))
    assert Path(wait().exported).parent == tmp_path

    _reopen(loop, host, presenter.shown)
    left = {path.name.partition("-")[0] for path in engine.folder.iterdir()}
    assert not left & {"part", "reference"}, "what is no longer needed was not removed"
    folder = engine.folder
    presenter.close()
    assert not folder.exists() and host.layout_restored


def _reopen(loop: EventLoop, host: ArrayHost, before: Shown) -> None:
    """The same scene in another panel and another process: everything is there, and nothing has to be done again."""
    engine = loop.engine(sys.executable, "-m", "medquant", "worker")
    presenter = Presenter(engine, host, lambda shown: None)
    for name in ("method", "slices", "activations", "runtime", "view"):
        presenter.set_option(name, getattr(before.options, name))
    presenter.choices_loaded()
    presenter.start()
    presenter.reference_chosen("manual")
    shown = presenter.shown
    assert shown.table == before.table and shown.worst == before.worst
    assert (shown.left_title, shown.right_title) == (before.left_title, before.right_title)
    assert shown.quantized == before.quantized and shown.quantized_fits
    assert shown.heatmap == before.heatmap and shown.overrides == before.overrides
    assert shown.waiting is None
    difference = host.masks.pop(DIFFERENCE).copy()
    presenter.facts.difference_shown = False
    presenter.difference()
    loop.wait(lambda: DIFFERENCE in host.masks, 60)
    np.testing.assert_array_equal(host.masks[DIFFERENCE], difference)
    again = presenter.shown.table
    assert (again.headline, again.rows, again.notes) == (before.table.headline, before.table.rows, before.table.notes)

    # A hand mends the quantized model's masks: what is compared is what is there, and it is said to be so.
    presenter.difference()
    host.masks[QUANTIZED] = host.masks[FP32].copy()
    presenter.masks_changed()
    assert "changed" in presenter.shown.table.headline
    presenter.compare()
    loop.wait(lambda: presenter.shown.waiting is None, 60)
    edited = presenter.shown.table
    assert edited.headline == "Dice 1.000, masks as FP32"
    assert [row.title for row in edited.rows] == ["FP32", "4-bit (edited)", "liver"]
    assert any("edited by hand" in note for note in edited.notes)
    told = [choice.accuracy for choice in presenter.shown.choices]
    assert told == [choice.accuracy for choice in before.choices], "what a hand has mended says nothing of the model"
    presenter.close()


def test_a_worker_that_is_killed_costs_only_what_it_did(loop: EventLoop, host: ArrayHost) -> None:
    engine = loop.engine(sys.executable, "-m", "medquant", "worker")
    seen: list[Shown] = []
    presenter = Presenter(engine, host, seen.append)
    presenter.start()
    host.reading = True
    presenter.volume_chosen()
    presenter.set_option("runtime", "pytorch")
    presenter.set_option("method", "rtn")
    presenter.set_option("slices", 1)
    presenter.set_option("activations", 0)
    presenter.quantize()
    loop.wait(lambda: presenter.shown.quantized_fits, 60)
    presenter.place_box()
    presenter.boxes_changed()
    presenter.segment()
    loop.wait(lambda: host.parts > 0, 60)
    loop.processes[-1].kill()
    loop.wait(lambda: presenter.shown.state is State.FAILED, 20)
    assert presenter.shown.problem.section == "segment"
    assert presenter.shown.problem.kind == ("engine" if sys.platform == "win32" else "memory")
    assert presenter.shown.quantized_fits
    presenter.segment()
    loop.wait(lambda: presenter.shown.state is State.IDLE, 60)
    assert presenter.shown.table is not None
    assert engine.starts == 2
