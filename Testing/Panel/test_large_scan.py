"""A scan of the usual size for a body, 512 x 512 x 400 voxels: whatever is done with it, the application goes on.

Each turn of the event loop stays below what a hand at the wheel feels. The bound is generous: computers that run tests
are slow. What took a turn of its own before took many times as long.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panel_geometries as geometries
import pytest

SHAPE = (400, 512, 512)
LONGEST_TURN = 0.25
SLICES = 10
"""Of a partial result: about what a fast model computes in the third of a second between two."""


@pytest.fixture
def volume(scene):
    made = geometries.add_volume("oblique", np.zeros(SHAPE, np.int16))
    yield made
    scene.Clear(0)
    gc.collect()


@pytest.fixture
def host(volume):
    from MedQuantSlicerLib.scene_host import SceneHost

    parameters = SimpleNamespace(inputVolume=volume, opacity=1.0, filled=False, referenceSegmentation=None)
    made = SceneHost(parameters)
    yield made
    made.close()


class Turns:
    """Goes through the event loop, and keeps how long that took, and the longest turn."""

    def __init__(self) -> None:
        self.longest = self.all = 0.0

    def measure(self, do) -> None:
        began = time.perf_counter()
        do()
        took = time.perf_counter() - began
        self.longest, self.all = max(self.longest, took), self.all + took

    def until(self, so, seconds: float = 60.0) -> None:
        import qt

        end = time.monotonic() + seconds
        while not so():
            assert time.monotonic() < end, "it did not come"
            self.measure(qt.QApplication.processEvents)


@pytest.fixture
def turns() -> Turns:
    gc.collect()
    return Turns()


def _organ() -> np.ndarray:
    """A large disc: the mask of one slice."""
    j, i = np.ogrid[:512, :512]
    return ((j - 256) ** 2 + (i - 256) ** 2 < 200**2).astype(np.uint8)


def test_handing_over_the_scan(host, volume, turns, tmp_path: Path) -> None:
    import slicer

    slicer.util.arrayFromVolume(volume)[::50] = np.arange(512, dtype=np.int16)
    told: list = []
    turns.measure(lambda: host.write_volume(str(tmp_path / "v.npy"), lambda: told.append("done"), told.append))
    turns.until(lambda: told)
    assert told == ["done"]
    written = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert written.dtype == np.int16
    np.testing.assert_array_equal(written, slicer.util.arrayFromVolume(volume))
    assert turns.longest < LONGEST_TURN


def test_stopping_to_hand_over(host, turns, tmp_path: Path) -> None:
    told: list = []
    stop = host.write_volume(str(tmp_path / "v.npy"), lambda: told.append("done"), told.append)
    turns.until(lambda: (tmp_path / "v.npy").exists())
    stop()
    size = (tmp_path / "v.npy").stat().st_size
    end = time.monotonic() + 0.2
    turns.until(lambda: time.monotonic() > end)
    assert told == [] and (tmp_path / "v.npy").stat().st_size == size < np.prod(SHAPE)


def test_masks_that_come_slices_after_slices(host, volume, turns, tmp_path: Path) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import FP32, Masks

    block = np.repeat(_organ()[None], SLICES, axis=0)
    np.save(tmp_path / "part.npy", block)
    for start in range(0, SHAPE[0], SLICES):
        part = Masks(str(tmp_path / "part.npy"), {1: "liver"}, (start, 0, 0), "FP32")
        turns.measure(lambda part=part: host.show_masks(FP32, part, partial=True))
    assert turns.all < 0.5, "a part costs what was there before"
    gc.collect()
    node = masks.segmentation_of(FP32, volume)
    assert masks.labels_on(node, volume)[0].sum() == SHAPE[0] * block[0].sum()
    np.save(tmp_path / "masks.npy", np.repeat(_organ()[None, 56:457, 56:457], SHAPE[0], axis=0))
    last = Masks(str(tmp_path / "masks.npy"), {1: "liver"}, (0, 56, 56), "FP32")
    turns.measure(lambda: host.show_masks(FP32, last, partial=False))
    assert masks.labels_on(node, volume)[0].sum() == SHAPE[0] * block[0].sum()
    assert turns.longest < LONGEST_TURN


def _reference(volume):
    from MedQuantSlicerLib import masks

    whole = np.zeros(SHAPE, np.uint8)
    whole[100:300] = _organ()
    whole[200:300, 240:260, 240:260] = 2
    node = masks.show("fp32", whole, {1: "liver", 2: "vessel"}, volume, title="drawn")
    node.RemoveAttribute(masks.KIND_ATTRIBUTE)
    return node


def test_handing_over_a_reference(host, volume, turns, tmp_path: Path) -> None:
    from MedQuantSlicerLib import masks

    host.parameters.referenceSegmentation = node = _reference(volume)
    told: list = []
    turns.measure(lambda: host.write_reference(str(tmp_path / "r.npy"), told.append, told.append))
    turns.until(lambda: told)
    assert told == [{1: "liver", 2: "vessel"}]
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy", mmap_mode="r"), masks.labels_on(node, volume)[0])
    assert turns.longest < LONGEST_TURN


def test_a_box_around_a_segment(host, volume, turns) -> None:
    from MedQuantSlicerLib import boxes, scene

    node, told = _reference(volume), []
    host.boxes_changed = lambda: told.append(boxes.describe_boxes(volume))
    host.chosen_segment = (node, "MedQuant_2")
    turns.measure(lambda: host.start_box(from_segment=True))
    turns.until(lambda: told and told[-1])
    (box,) = told[-1]
    assert box.name == "vessel"
    into_voxels = np.linalg.inv(np.array(scene.describe_volume(volume).ijk_to_lps))
    corners = np.array([into_voxels @ [*corner, 1.0] for corner in box.corners])[:, :3]
    np.testing.assert_allclose(corners.min(axis=0), [239.5, 239.5, 199.5], atol=1e-3)
    np.testing.assert_allclose(corners.max(axis=0), [259.5, 259.5, 299.5], atol=1e-3)
    assert turns.longest < LONGEST_TURN


def test_masks_that_another_hand_edits(host, volume, turns) -> None:
    """The state of a whole body's masks is found in turns, and whoever is told that they have changed knows it."""
    from MedQuantSlicerLib import masks

    from medquant_desktop import session

    whole = np.repeat(_organ()[None] * 7, SHAPE[0], axis=0)
    whole[200:] //= 2
    node = masks.show("fp32", whole, {3: "legs", 7: "trunk"}, volume, title="FP32")
    told: list[str] = []

    def changed() -> None:
        turns.measure(lambda: told.append(host.masks_state("fp32")))
        turns.measure(session.results)

    host.masks_changed = changed
    turns.until(lambda: told)
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    masks._array_of(image)[100, 256, 256] = 0
    image.Modified()
    node.GetSegmentation().Modified()
    node.GetSegmentation().InvokeEvent(node.GetSegmentation().SourceRepresentationModified)
    turns.until(lambda: len(told) > 1)
    assert told[0] != told[-1]
    assert turns.longest < LONGEST_TURN


def test_masks_in_the_making_are_not_looked_at(host, volume, turns) -> None:
    from MedQuantSlicerLib import masks

    told: list[int] = []
    host.masks_changed, host.is_busy = lambda: told.append(1), lambda: True
    masks.show("fp32", np.ones((2, 2, 2), np.uint8), {1: "spot"}, volume, title="FP32")
    end = time.monotonic() + 0.4
    turns.until(lambda: time.monotonic() > end)
    assert told == []
