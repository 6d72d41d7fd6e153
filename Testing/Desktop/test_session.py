"""Sessions: everything comes back; a broken file leaves what was open."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


def test_scan_box_masks_and_place_come_back(opened, hands, tmp_path: Path) -> None:
    import slicer
    from MedQuantSlicerLib import boxes, masks
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    volume = opened.views.volume
    before = slicer.util.arrayFromVolume(volume).copy()
    labels = (before > 500).astype(np.uint8)
    masks.show(FP32, labels, {1: "spot"}, volume, title="FP32")
    masks.show(QUANTIZED, labels, {1: "spot"}, volume, title="4-bit")
    boxes.fit_box(boxes.new_box(volume, "spot"), volume, (18, 20, 0), (25, 25, 1))
    opened.views.show_pair("", "")
    hands.wait()
    hands.wheel(opened.views.left, -4)
    place = opened.views.left.place()[0]
    path = tmp_path / "case"
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    path = tmp_path / "case.mrb"
    assert zipfile.is_zipfile(path)

    slicer.mrmlScene.Clear(False)
    hands.wait()
    assert opened.views.volume is None
    assert opened.stack.currentIndex == 0
    opened.documents.open_path(path)
    hands.until(lambda: opened.views.volume is not None)
    hands.wait()
    volume = opened.views.volume
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), before)
    for kind in (FP32, QUANTIZED):
        found, names = masks.labels_on(masks.segmentation_of(kind, volume), volume)
        np.testing.assert_array_equal(found, labels)
        assert names == {1: "spot"}
    assert [node.GetName() for node in boxes.boxes_of(volume)] == ["spot"]
    assert opened.views.left.place()[0] == place
    assert opened.views.paired
    hands.wheel(opened.views.right, 2)
    assert opened.views.left.place()[0] == (place[0] + 2, place[1])


def test_in_a_saved_session_masks_are_bound_to_no_view(opened, hands, tmp_path: Path) -> None:
    """Another program that opens it has other views; here each stays in its own."""
    import slicer
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    volume, host = opened.views.volume, opened.frame.module.host
    labels = np.ones(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for kind in (FP32, QUANTIZED):
        masks.show(kind, labels, {1: "all"}, volume, title=kind)
    host.place_masks()
    path = tmp_path / "case.mrb"
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    with zipfile.ZipFile(path) as archive:
        text = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".mrml"))
    displays = [part for part in text.split("<")[1:] if part.startswith("SegmentationDisplay")]
    assert len(displays) == 2
    assert all('viewNodeRef=""' in display for display in displays)
    left, right = "vtkMRMLSliceNodeMedQuantFP32", "vtkMRMLSliceNodeMedQuantQuantized"
    slicer.mrmlScene.Clear(False)
    hands.wait()
    opened.documents.open_path(path)
    hands.until(lambda: opened.views.volume is not None)
    for kind, own, other in ((FP32, left, right), (QUANTIZED, right, left)):
        display = masks.segmentation_of(kind, opened.views.volume).GetDisplayNode()
        assert display.IsDisplayableInView(own)
        assert not display.IsDisplayableInView(other)


def test_closing_asks_about_what_is_not_saved(opened, hands, tmp_path: Path) -> None:
    from MedQuantSlicerLib import boxes

    asked = []
    opened.documents.may_lose = lambda: bool(asked.append(1))
    boxes.fit_box(boxes.new_box(opened.views.volume, "spot"), opened.views.volume, (18, 20, 0), (25, 25, 1))
    opened.close()
    assert asked
    assert opened.isVisible()
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    opened.close()
    assert len(asked) == 1
    assert not opened.isVisible()


def test_a_broken_session_leaves_what_is_open(opened, hands, tmp_path: Path) -> None:
    volume, path = opened.views.volume, tmp_path / "broken.mrb"
    path.write_bytes(b"PK not really")
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert opened.views.volume is volume


def test_a_zip_without_a_scene_is_no_session(opened, hands, tmp_path: Path) -> None:
    volume, path = opened.views.volume, tmp_path / "other.mrb"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert opened.views.volume is volume


def test_a_folder_that_cannot_be_written_is_told(opened, hands, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    opened.documents.save_session(blocked / "session.mrb")
    hands.until(lambda: "Cannot write" in opened.notice.said)
    assert list(tmp_path.glob("**/*.mrb")) == []


def test_a_session_holds_no_thumbnail_and_no_path_of_this_machine(opened, hands, tmp_path: Path) -> None:
    path = tmp_path / "case.mrb"
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    with zipfile.ZipFile(path) as archive:
        scene = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".mrml"))
    assert str(tmp_path) not in scene
