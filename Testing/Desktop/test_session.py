"""Sessions are saved beside the window, and everything comes back."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from session_parts import all_volumes, have_quantized

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


def test_scan_box_masks_and_place_come_back(opened, hands, tmp_path: Path) -> None:
    import slicer
    from MedQuantSlicerLib import boxes, masks
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    from medquant_desktop.pane import THREE_D

    volume = opened.views.volume
    before = slicer.util.arrayFromVolume(volume).copy()
    labels = (before > 500).astype(np.uint8)
    masks.show(FP32, labels, {1: "spot"}, volume, title="FP32")
    masks.show(QUANTIZED, labels, {1: "spot"}, volume, title="4-bit")
    boxes.fit_box(boxes.new_box(volume, "spot"), volume, (18, 20, 0), (25, 25, 1))
    opened.views.show_pair()
    opened.views.show_optional(THREE_D, True)
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
    opened.views.show_optional(THREE_D, False)
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
    assert opened.views.is_shown(THREE_D)
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


def test_a_folder_that_cannot_be_written_is_told(opened, hands, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    opened.documents.save_session(blocked / "session.mrb")
    hands.until(lambda: "Cannot write" in opened.notice.said)
    opened.documents.save_session(tmp_path / "again.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    (tmp_path / "again.mrb").unlink()
    assert list(tmp_path.glob("**/*.mrb")) == []


def test_a_session_holds_no_thumbnail_and_no_path_of_this_machine(opened, hands, tmp_path: Path) -> None:
    path = tmp_path / "case.mrb"
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    with zipfile.ZipFile(path) as archive:
        scene = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".mrml"))
    assert str(tmp_path) not in scene


def test_a_scan_goes_into_a_session_as_it_is_by_slicers_own_reader_too(window, hands, tmp_path: Path) -> None:
    """Voxels and place of an oblique scan of every type, by a header of our own."""
    import slicer
    import vtk

    turned = np.array([[0.6, -0.8, 0.0, 10.5], [0.8, 0.6, 0.0, -20.25], [0.0, 0.0, 1.0, 1 / 3], [0.0, 0.0, 0.0, 1.0]])
    turned[:3, :3] *= (0.7, 1.1, -2.5)  # left-handed
    kinds = (np.int16, np.uint8, np.float32, np.float64, np.int32)
    arrays = {np.dtype(kind).name: np.arange(60, dtype=kind).reshape(3, 4, 5) - kind(1) for kind in kinds}
    for name, array in arrays.items():
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, array)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(turned.ravel())
        node.SetIJKToRASMatrix(matrix)
    before = [(node.GetStorageNode() and node.GetStorageNode().GetFileName()) or "" for node in all_volumes()]
    window.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: window.notice.said.startswith("Saved"))
    assert [node.GetStorageNode().GetFileName() or "" for node in all_volumes()] == before
    slicer.mrmlScene.Clear(False)
    window.documents.open_path(tmp_path / "case.mrb")
    hands.until(lambda: len(all_volumes()) == len(arrays))
    for node in all_volumes():
        found = slicer.util.arrayFromVolume(node)
        assert found.dtype.name == node.GetName()
        np.testing.assert_array_equal(found, arrays[node.GetName()])
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        place = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        np.testing.assert_allclose(place, turned, atol=1e-9)


def test_the_window_goes_on_while_a_large_scan_is_saved(window, hands, tmp_path: Path) -> None:
    """100 MB of noise, which hardly packs: as long as it takes, no turn of the event loop is a long one."""
    import time

    import slicer

    noise = np.random.default_rng(0).integers(-1000, 1000, (200, 512, 512), np.int16)
    slicer.util.updateVolumeFromArray(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "large"), noise)
    hands.wait()
    window.documents.save_session(tmp_path / "case.mrb")
    longest = turns = 0
    while not window.notice.said.startswith("Saved"):
        began = time.monotonic()
        hands.application.processEvents()
        longest, turns = max(longest, time.monotonic() - began), turns + 1
        time.sleep(0.003)
    assert turns > 50, "it is saved beside the window, not in it"
    assert longest < 0.5
    with zipfile.ZipFile(tmp_path / "case.mrb") as archive:
        assert archive.testzip() is None


def test_scans_are_not_copied_to_the_disk_before_they_are_packed(opened, hands, tmp_path: Path, monkeypatch) -> None:
    from medquant_desktop import session

    seen: list[set[str]] = []
    pack = session._pack
    monkeypatch.setattr(
        session, "_pack", lambda path, inside, scans: (seen.append(_names(inside)), pack(path, inside, scans))
    )
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert not any(name.endswith(".nrrd") for name in seen[0])


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*")}


def test_titles_and_table_stand_over_the_views_of_a_reopened_session(opened, hands, tmp_path: Path) -> None:
    import slicer
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import FP32, QUANTIZED
    from MedQuantSlicerLib.results import Computed
    from MedQuantSlicerLib.state import Cell, Row, Table

    presenter, host = opened.frame.presenter, opened.frame.module.host
    facts = presenter.facts
    have_quantized(opened, tmp_path / "w4.mq.safetensors")
    for kind, title in ((FP32, "FP32  15 MB  2.31 s"), (QUANTIZED, "4-bit  2.5 MB  1.02 s")):
        masks.show(kind, np.ones((12, 60, 80), np.uint8), {1: "spot"}, opened.views.volume, title=title[:5])
        facts.masks[kind] = Computed({"labels": {"1": "spot"}}, facts.source(kind), title, host.masks_state(kind))
        presenter._keeping.keep_masks(kind)
    presenter._masks.look_at_states()
    facts.table = Table(("Dice",), ("overlap",), (Row("spot", (Cell(".994"),)),), "Dice .994, masks as FP32")
    facts.worst = {"text": "Slice 3 of 12", "position": [0.0, 0.0, 110.0]}
    facts.difference = {"per_slice": [[0] * 2 + [7] + [0] * 9, [0] * 60, [0] * 80], "labels": {}}
    facts.compared = facts.comparison_of
    presenter._keeping.keep_comparison()
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    slicer.mrmlScene.Clear(False)
    facts.made.clear()
    hands.until(lambda: opened.views.volume is None and presenter.shown.table is None)
    opened.documents.open_path(tmp_path / "case.mrb")
    hands.until(lambda: opened.views.volume is not None)
    hands.wait(0.5)
    assert opened.views.panes["MedQuantFP32"]._title.text == "FP32  15 MB  2.31 s"
    assert opened.views.panes["MedQuantQuantized"]._title.text == "4-bit  2.5 MB  1.02 s"
    assert opened.frame.module.ui.headlineLabel.text == "Dice .994, masks as FP32"
    assert max(opened.views.slider.profile) == 7
    assert presenter.shown.quantized_fits
    assert opened.documents.unsaved() == []
