"""Results in a real scene: in which state masks are, and that they come back from a file with all that is known."""

from __future__ import annotations

import json

import numpy as np
import panel_geometries as geometries
import pytest
from panel_hands import settle


@pytest.fixture
def volume(slicer, scene):
    """An oblique scan."""
    return geometries.add_volume("oblique")


@pytest.fixture
def labels() -> np.ndarray:
    """Two structures."""
    made = np.zeros((9, 12, 16), np.uint8)
    made[2:5, 3:8, 4:9] = 1
    made[6, 3:8, 4:9] = 3
    return made


def _show(volume, labels, kind="fp32"):
    from MedQuantSlicerLib import masks

    return masks.show(kind, labels, {1: "liver", 3: "spleen"}, volume, title="FP32")


def _saved_and_loaded(slicer, scene, tmp_path) -> None:
    path = tmp_path / "session.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(0)
    (tmp_path / "unpacked").mkdir()
    reader = slicer.vtkMRMLApplicationLogic()
    reader.SetMRMLScene(scene)
    assert reader.OpenSlicerDataBundle(str(path), str(tmp_path / "unpacked"))


def test_drawing_saving_and_loading_leave_the_state_as_it_is(slicer, scene, volume, labels, tmp_path) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.mask_states import MaskStates

    node = _show(volume, labels)
    state = MaskStates().of(node)
    assert state
    node.GetDisplayNode().SetOpacity(0.3)
    node.GetSegmentation().GetNthSegment(0).SetColor(1, 0, 0)
    node.SetName("another")
    assert MaskStates().of(node) == state
    _saved_and_loaded(slicer, scene, tmp_path)
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert MaskStates().of(masks.segmentation_of("fp32", volume)) == state


def test_every_edit_is_another_state(slicer, volume, labels) -> None:
    from MedQuantSlicerLib.mask_states import MaskStates

    node, states = _show(volume, labels), MaskStates()
    seen = [states.of(node)]

    def edited() -> str:
        seen.append(states.of(node))
        return seen[-1]

    smaller = labels.copy()
    smaller[2, 3, 4] = 0
    _show(volume, smaller)
    edited()
    _show(volume, np.roll(labels, 1, axis=2))
    edited()
    _show(volume, np.where(labels == 1, 3, np.where(labels == 3, 1, 0)).astype(np.uint8))
    edited()
    node.GetSegmentation().GetNthSegment(1).SetName("kidney")
    edited()
    node.GetSegmentation().AddEmptySegment("mine")
    edited()
    assert len(set(seen)) == 6
    node.GetSegmentation().RemoveSegment("mine")
    _show(volume, labels)
    assert states.of(node) == seen[0], "what is as it was is as it was"


def test_an_edit_in_the_segment_editor_is_heard_of(slicer, scene, volume, labels, tmp_path) -> None:
    import qt
    from MedQuantSlicerLib.mask_states import SegmentationWatch

    heard: list[object] = []
    watch = SegmentationWatch(lambda *_: heard.append(1))
    node = _show(volume, labels)
    watch.look()
    heard.clear()
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
    array[2] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, identifier, volume)
    qt.QApplication.processEvents()
    assert heard
    heard.clear()
    watch.close()
    _show(volume, labels)
    assert not heard


def _computed(widget, kind: str, labels: np.ndarray, volume) -> None:
    """As if the engine had computed these masks."""
    from MedQuantSlicerLib.results import Computed

    presenter, facts = widget.panel.presenter, widget.panel.presenter.facts
    _show(volume, labels, kind)
    told = {"array": f"{kind}.npy", "offset": [0, 0, 0], "labels": {"1": "liver"}, "seconds": 1.5}
    state = widget.host.masks_state(kind)
    facts.masks[kind] = Computed(told, facts.source(kind), f"{kind}; 2.5 MB  1.02 s: \N{EN DASH} done", state)
    presenter._keeping.keep_masks(kind)


def test_everything_comes_back_from_a_file(
    slicer, scene, engine, widget, volume, labels, tmp_path, monkeypatch
) -> None:
    from MedQuantSlicerLib import boxes, masks
    from MedQuantSlicerLib.results import Quantized
    from MedQuantSlicerLib.state import Cell, Row, Table

    widget.parameters.inputVolume = volume
    boxes.fit_box(boxes.new_box(volume, "liver"), volume, (2, 3, 2), (9, 9, 5))
    settle(250)
    presenter, facts = widget.panel.presenter, widget.panel.presenter.facts
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    handle = tmp_path / "w4 of a; strange: name.mq.safetensors"
    handle.touch()
    facts.made[facts.settings] = Quantized(str(handle), 4, "2.5 MB; 4.2 bits/weight")
    for kind in ("fp32", "quantized"):
        _computed(widget, kind, labels, volume)
    presenter._masks.look_at_states()
    facts.table = Table(("Dice",), ("overlap",), (Row("liver", (Cell(".994", True),)),), 'Dice .994; "<small>"', ("n",))
    facts.worst = {"text": "Slice 4 of 9", "position": [1.0, 2.0, 3.0]}
    facts.difference = {"array": "difference.npy", "per_slice": [[0, 1], [1], [1]], "labels": {"1": "FP32 only"}}
    facts.compared = facts.comparison_of
    presenter._keeping.keep_comparison()
    presenter._keeping.keep_choices()
    presenter.update()
    before = presenter.shown
    assert before.quantized_fits and facts.is_compared
    _saved_and_loaded(slicer, scene, tmp_path)
    settle(250)
    shown = presenter.shown
    assert shown.table == before.table and shown.worst == before.worst
    assert (shown.left_title, shown.right_title) == (before.left_title, before.right_title)
    assert presenter.difference_per_slice() == ((0, 1), (1,), (1,))
    assert shown.quantized == "4-bit: 2.5 MB; 4.2 bits/weight" and shown.quantized_fits
    assert presenter.facts.is_current("fp32") and presenter.facts.is_current("quantized"), "nothing is to be done again"
    assert not any(facts.edited(kind) for kind in ("fp32", "quantized"))
    assert not {one.method for one in engine.asked} & {"compare", "segment", "quantize"}, "nothing was done"

    # Edited in the application: heard of, and in its edited form what the engine gets.
    volume = widget.parameters.inputVolume
    node = masks.segmentation_of("quantized", volume)
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
    array[2] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, identifier, volume)
    settle(250)
    assert "changed" in presenter.shown.table.headline
    assert presenter.shown.right_title.endswith("edited")
    done: list[object] = []
    widget.host.write_masks("quantized", str(tmp_path / "masks.npy"), done.append, done.append)
    settle(250)
    assert done == [{1: "liver", 2: "spleen"}]
    edited = np.where(labels == 3, 2, labels)
    edited[2] = 0
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), edited)


def test_a_scan_with_other_voxels_has_no_results(slicer, widget, volume, labels) -> None:
    widget.parameters.inputVolume = volume
    settle(250)
    _computed(widget, "fp32", labels, volume)
    assert json.loads(widget.host.kept("fp32"))["title"]
    slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume) + 1)
    settle(250)
    assert widget.host.kept("fp32") == "" and widget.panel.presenter.shown.left_title == ""


def test_results_do_not_outlive_voxels_that_changed_while_another_scan_was_chosen(
    slicer, widget, volume, labels
) -> None:
    widget.parameters.inputVolume = volume
    settle(250)
    assert not widget.host.is_busy()
    _computed(widget, "fp32", labels, volume)
    title = widget.panel.presenter.shown.left_title
    other = geometries.add_volume("oblique")
    widget.parameters.inputVolume = other
    settle(250)
    widget.parameters.inputVolume = volume
    settle(250)
    assert widget.panel.presenter.shown.left_title.startswith("fp32; 2.5 MB") and not title
    widget.parameters.inputVolume = other
    settle(250)
    slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume) + 1)
    settle(250)
    widget.parameters.inputVolume = volume
    settle(250)
    assert widget.panel.presenter.shown.left_title == ""


def test_masks_that_were_set_aside_are_put_back_with_what_is_kept(slicer, widget, volume, labels) -> None:
    from MedQuantSlicerLib import masks

    widget.parameters.inputVolume = volume
    settle(250)
    _computed(widget, "fp32", labels, volume)
    kept, state = widget.host.kept("fp32"), widget.host.masks_state("fp32")
    put_back = widget.host.set_aside("fp32")
    widget.host.keep("fp32", "")
    _show(volume, np.zeros_like(labels))
    put_back()
    assert (widget.host.kept("fp32"), widget.host.masks_state("fp32")) == (kept, state)
    take_away = widget.host.set_aside("quantized")
    _show(volume, labels, "quantized")
    take_away()
    assert masks.segmentation_of("quantized", volume) is None
