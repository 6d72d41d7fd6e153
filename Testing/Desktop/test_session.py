"""Sessions: everything comes back; a broken file leaves what was open."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

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


def test_what_was_measured_of_layers_is_not_lost_without_a_question(
    opened, hands, tmp_path: Path, scan_file: Path, monkeypatch
) -> None:
    import slicer

    presenter, asked = opened.frame.presenter, []
    engine = presenter._works.engine

    def request(method: str, params: object = None, **callbacks) -> SimpleNamespace:
        if method == "sensitivity":
            asked.append(callbacks)
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(engine, "request", request)
    monkeypatch.setattr(engine, "path", lambda name: str(tmp_path / name))

    def measure(effect: float) -> None:
        asked.clear()
        presenter.find_sensitivity()
        hands.until(lambda: asked)
        about = {"layer": "encoder.0", "kind": "Linear", "shape": [4, 8], "share": 1.0, "bits": 4}
        asked[0]["on_result"]({"cells": [{**about, "effect": effect}], "agreement": []})

    def save() -> None:
        opened.notice.clear()
        opened.documents.save_session(tmp_path / "case.mrb")
        hands.until(lambda: opened.notice.said.startswith("Saved"))
        assert opened.documents.unsaved() == []

    lost = ["the sensitivity of layers"]
    measure(0.1)
    assert opened.documents.unsaved() == lost
    save()
    measure(0.2)
    assert opened.documents.unsaved() == lost, "measured anew"
    first = opened.views.volume
    opened.documents.open_path(scan_file)
    hands.until(lambda: opened.views.volume is not first)
    assert opened.documents.unsaved() == lost, "of the other scan"
    save()
    second = opened.views.volume
    slicer.util.updateVolumeFromArray(second, slicer.util.arrayFromVolume(second) + 1)
    hands.until(lambda: presenter.shown.heatmap is None)
    measure(0.2)
    assert opened.documents.unsaved() == lost, "the same numbers of this scan"
    save()


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
    before = [(node.GetStorageNode() and node.GetStorageNode().GetFileName()) or "" for node in _volumes()]
    window.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: window.notice.said.startswith("Saved"))
    assert [node.GetStorageNode().GetFileName() or "" for node in _volumes()] == before
    slicer.mrmlScene.Clear(False)
    window.documents.open_path(tmp_path / "case.mrb")
    hands.until(lambda: len(_volumes()) == len(arrays))
    for node in _volumes():
        found = slicer.util.arrayFromVolume(node)
        assert found.dtype.name == node.GetName()
        np.testing.assert_array_equal(found, arrays[node.GetName()])
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        place = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        np.testing.assert_allclose(place, turned, atol=1e-9)


def _volumes() -> list:
    import slicer

    return slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


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


@pytest.mark.parametrize("damage", ["cut", "torn scene", "no scan"])
def test_a_session_is_read_before_the_scene_goes(opened, hands, tmp_path: Path, damage: str) -> None:
    import slicer

    path, volume = tmp_path / "case.mrb", opened.views.volume
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    opened.notice.clear()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                if damage == "torn scene" and name.endswith(".mrml"):
                    archive.writestr(name, data[: len(data) // 2])
                elif not (damage == "no scan" and name.endswith(".nrrd")):
                    archive.writestr(name, data)
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert opened.views.volume is volume and slicer.mrmlScene.IsNodePresent(volume)


def _quantized(window, handle: Path) -> None:
    """As if the panel had quantized a model."""
    from MedQuantSlicerLib.facts import Quantized

    handle.touch()
    presenter = window.frame.presenter
    presenter.facts.made[presenter.facts.settings] = Quantized(str(handle), 4, "2.5 MB")
    presenter._keeping.keep_choices()
    presenter.update()


def test_closing_asks_about_quantized_models_until_they_are_saved_or_exported(opened, hands, tmp_path: Path) -> None:
    assert opened.documents.unsaved() == []
    _quantized(opened, tmp_path / "w4.mq.safetensors")
    assert opened.documents.unsaved() == ["quantized models"]
    opened.frame.presenter.facts.exported_models.add(str(tmp_path / "w4.mq.safetensors"))
    assert opened.documents.unsaved() == []
    opened.frame.presenter.facts.exported_models.clear()
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert opened.documents.unsaved() == []


def test_closing_asks_about_a_comparison_and_says_what_would_be_lost(
    opened, hands, tmp_path: Path, monkeypatch
) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import COMPARISON, FP32, QUANTIZED
    from PySide6.QtWidgets import QMessageBox

    from medquant_desktop.documents import Documents

    volume = opened.views.volume
    for kind in (FP32, QUANTIZED):
        masks.show(kind, np.ones((12, 60, 80), np.uint8), {1: "spot"}, volume, title=kind)
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert opened.documents.unsaved() == []
    opened.frame.module.host.keep(COMPARISON, "{}")
    assert opened.documents.unsaved() == ["a comparison"]
    _quantized(opened, tmp_path / "w4.mq.safetensors")
    asked: list[str] = []
    answers = iter([QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Save])
    monkeypatch.setattr(QMessageBox, "question", lambda _, __, text, *___: (asked.append(text), next(answers))[1])
    monkeypatch.delattr(opened.documents, "may_lose")
    opened.close()
    assert opened.isVisible() and asked == ["A comparison and quantized models are not saved."]
    monkeypatch.setattr(Documents, "ask_where_to_save", lambda self, then: self.save_session(tmp_path / "b.mrb", then))
    opened.close()
    assert opened.isVisible(), "it closes once it is saved"
    hands.until(lambda: not opened.isVisible())
    assert (tmp_path / "b.mrb").is_file() and len(asked) == 2


def test_a_window_that_saves_closes_when_it_has(opened, hands, tmp_path: Path) -> None:
    opened.documents.save_session(tmp_path / "case.mrb")
    opened.close()
    assert opened.isVisible()
    hands.until(lambda: not opened.isVisible())
    assert zipfile.is_zipfile(tmp_path / "case.mrb")


def test_looking_at_surfaces_is_no_change(opened, hands, tmp_path: Path) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import FP32

    node = masks.show(FP32, np.ones((12, 60, 80), np.uint8), {1: "spot"}, opened.views.volume, title="FP32")
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    node.CreateClosedSurfaceRepresentation()
    assert opened.documents.unsaved() == []


def test_titles_and_table_stand_over_the_views_of_a_reopened_session(opened, hands, tmp_path: Path) -> None:
    import slicer
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.facts import Computed
    from MedQuantSlicerLib.host import FP32, QUANTIZED
    from MedQuantSlicerLib.state import Cell, Row, Table

    presenter, host = opened.frame.presenter, opened.frame.module.host
    facts = presenter.facts
    _quantized(opened, tmp_path / "w4.mq.safetensors")
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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def _large_session(opened, hands, tmp_path: Path) -> Path:
    """A saved one with a member that takes a while to unpack."""
    path = tmp_path / "large.mrb"
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    opened.notice.clear()
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("large/Data/large.bin", bytes(400_000_000))
    return path


def test_a_window_that_closes_while_it_opens_leaves_no_scan_on_the_disk(
    opened, hands, tmp_path: Path, temporary: Path
) -> None:
    path = _large_session(opened, hands, tmp_path)
    assert list(temporary.iterdir()) == []
    opened.documents.open_path(path)
    hands.until(lambda: list(temporary.glob("*/*/*/*")))
    (folder,) = temporary.iterdir()
    assert (folder / "owner").is_file(), "it is removed at the next start where this process is killed"
    opened.close()
    assert not opened.isVisible()
    assert list(temporary.iterdir()) == []
    hands.wait(0.2)
    assert list(temporary.iterdir()) == []


def test_while_it_saves_too_what_is_on_the_disk_has_an_owner(opened, hands, tmp_path: Path, temporary: Path) -> None:
    opened.documents.save_session(tmp_path / "owner.mrb")
    (folder,) = temporary.iterdir()
    assert (folder / "owner").is_file()
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert list(temporary.iterdir()) == []
    opened.documents.open_path(tmp_path / "owner.mrb")
    hands.until(lambda: opened.windowTitle.startswith("small ct") and list(temporary.iterdir()) == [])


def test_a_session_that_would_write_elsewhere_is_none(opened, hands, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "evil.mrb"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../../elsewhere.txt", "hello")
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert not list(tmp_path.rglob("elsewhere.txt"))


def test_what_is_opened_while_a_session_is_unpacked_takes_its_place(
    opened, hands, tmp_path: Path, temporary: Path, scan_file: Path
) -> None:
    path = _large_session(opened, hands, tmp_path)
    opened.documents.open_path(path)
    hands.until(lambda: list(temporary.glob("*/*/*/*")))
    volume = opened.views.volume
    opened.documents.open_path(scan_file)
    hands.until(lambda: opened.views.volume is not volume)
    assert len(_volumes()) == 2
    hands.wait(1.0)
    assert len(_volumes()) == 2, "the scene was not emptied under it"
    assert list(temporary.iterdir()) == []


def test_what_is_drawn_while_a_session_is_unpacked_goes_only_after_a_question(
    opened, hands, tmp_path: Path, temporary: Path
) -> None:
    from MedQuantSlicerLib import boxes

    path = _large_session(opened, hands, tmp_path)
    asked: list[int] = []
    opened.documents.may_lose = lambda: bool(asked.append(1))
    opened.documents.open_path(path)
    hands.until(lambda: list(temporary.glob("*/*/*/*")))
    volume = opened.views.volume
    boxes.fit_box(boxes.new_box(volume, "spot"), volume, (18, 20, 0), (25, 25, 1))
    hands.until(lambda: asked)
    hands.wait(0.2)
    assert [node.GetName() for node in boxes.boxes_of(volume)] == ["spot"]
    assert opened.views.volume is volume and opened.notice.said == ""
    assert list(temporary.iterdir()) == []
