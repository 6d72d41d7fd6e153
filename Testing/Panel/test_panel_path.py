"""From a scan to a comparison by real clicks, with an engine that answers what it is told to."""

from __future__ import annotations

import numpy as np
import pytest
from panel_fakes import QUANTIZED, SIZES, a_table, mask_of
from panel_hands import choose_scan, click, draw_box, primary, settle, show


@pytest.fixture
def widget(widget):
    """The panel on the screen."""
    return show(widget)


def test_without_a_scan_the_sample_is_the_one_thing_to_press(widget, engine):
    assert primary(widget) == ["sampleButton"]
    assert not widget.ui.quantizeButton.enabled
    assert "scan" in widget.ui.quantizeButton.toolTip
    assert engine.asked == [], "nothing is asked, so nothing is started"
    click(widget.ui.sampleButton)
    assert widget.sampled


def test_a_scan_is_described(widget):
    choose_scan(widget)
    assert "16 \N{MULTIPLICATION SIGN} 12 \N{MULTIPLICATION SIGN} 9" in widget.ui.scanLabel.text
    assert not widget.ui.emptyWidget.isVisible()
    assert primary(widget) == ["quantizeButton"]


def test_what_cannot_be_used_says_why(widget, slicer, scene):
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    slicer.util.updateVolumeFromArray(colour, np.zeros((2, 3, 4, 3), np.uint8))
    widget.parameters.inputVolume = colour
    settle()
    assert "several values" in widget.ui.hintLabel.text
    assert not widget.ui.quantizeButton.enabled


def test_from_scan_to_comparison_by_clicks(widget, engine, slicer):
    from MedQuantSlicerLib import masks

    volume = choose_scan(widget)
    engine.answer("sizes", SIZES)
    click(widget.ui.bits2Button)
    assert widget.parameters.bits == 2
    click(widget.ui.bits4Button)
    assert widget.ui.bits4Button.checked
    assert not widget.ui.bits2Button.checked

    click(widget.ui.quantizeButton)
    asked = engine.last("quantize")
    assert (asked.params["bits"], asked.params["method"]) == (4, "permutation-comq")
    np.testing.assert_array_equal(
        np.load(engine.path(asked.params["volume"]["array"])), slicer.util.arrayFromVolume(volume)
    )
    asked.callbacks["on_progress"]({"fraction": 0.36, "text": "Quantizing layer 17 of 48", "seconds_left": 42})
    settle()
    messages = widget.panel.messages["quantize"]
    assert (messages.what.text, messages.left.text) == ("Quantizing layer 17 of 48", "0:42 left")
    assert messages.bar.value == 360
    assert widget.ui.quantizeButton.text == "Cancel"
    assert not widget.ui.segmentButton.enabled
    engine.answer("quantize", QUANTIZED)
    settle()
    assert "2.5 MB" in widget.ui.quantizedLabel.text
    assert primary(widget) == ["placeBoxButton"]

    draw_box(volume)
    assert widget.ui.boxList.topLevelItem(0).text(0) == "liver"
    assert primary(widget) == ["segmentButton"]
    click(widget.ui.segmentButton)
    first = np.zeros((9, 12, 16), np.uint8)
    first[3:5, 4:8, 4:9] = 1
    part = mask_of(engine, "part.npy", first[3:4]) | {"offset": [3, 0, 0]}
    engine.last("segment").callbacks["on_partial"]({"masks": part})
    node = masks.segmentation_of("fp32", volume)
    assert masks.labels_on(node, volume)[0].sum() == first[3].sum()
    done = {"size_text": "7.7 MB", "seconds_text": "3.1 s"}
    engine.answer("segment", {"mask": mask_of(engine, "fp32.npy", first), **done})
    second = first.copy()
    second[4, 7] = 0
    engine.answer("segment", {"mask": mask_of(engine, "w4.npy", second), **done})
    for kind, labels in (("fp32", first), ("quantized", second)):
        np.testing.assert_array_equal(masks.labels_on(masks.segmentation_of(kind, volume), volume)[0], labels)

    difference = mask_of(engine, "difference.npy", (first != second).astype(np.uint8))
    worst = {"text": "Slice 4 differs most: 5 voxels", "position": [0.0, 0.0, 0.0]}
    engine.answer("compare", {"table": a_table(), "worst": worst, "difference": difference, "verdict": "masks as FP32"})
    settle()
    assert widget.ui.headlineLabel.text == "Dice .994, masks as FP32"
    assert widget.ui.compareTable.topLevelItem(0).text(1) == ".994"
    rows = [widget.ui.costTable.topLevelItem(row) for row in range(widget.ui.costTable.topLevelItemCount)]
    assert ["on disk", "7.7 MB", "2.5 MB"] in [[row.text(place) for place in range(3)] for row in rows]
    assert primary(widget) == ["worstButton"]
    chosen = widget.panel.presenter.facts.model
    title = widget.panel.presenter.facts.line.title
    widget.panel.presenter.model_chosen("medsam")
    assert widget.ui.headlineLabel.text == f"Of {title}: Dice .994, masks as FP32"
    widget.ui.compareSection.collapsed = True
    settle()
    assert widget.ui.compareSection.text == f"Compare: of {title}"
    widget.ui.compareSection.collapsed = False
    widget.panel.presenter.model_chosen(chosen)
    settle()
    assert widget.ui.headlineLabel.text == "Dice .994, masks as FP32"
    click(widget.ui.differenceButton)
    assert masks.segmentation_of("difference", volume) is not None
    click(widget.ui.differenceButton)
    assert masks.segmentation_of("difference", volume) is None
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(volume).ravel(), np.arange(volume.GetImageData().GetNumberOfPoints())
    )


def test_cancel_stands_where_the_work_was_started(widget, engine):
    choose_scan(widget)
    click(widget.ui.quantizeButton)
    click(widget.ui.quantizeButton)
    assert engine.last("quantize").cancelled
    assert widget.ui.quantizeButton.text == "Quantize"
    assert not widget.panel.messages["quantize"].problem.isVisible()


def test_a_problem_stands_where_the_action_was(widget, engine):
    choose_scan(widget)
    click(widget.ui.quantizeButton)
    engine.last("quantize").callbacks["on_error"](
        {"kind": "memory", "message": "No memory. Do this.", "log": "/logs/engine.log"}
    )
    settle()
    messages = widget.panel.messages["quantize"]
    assert messages.problem.isVisible()
    assert messages.trouble.text == "No memory. Do this."
    assert not widget.panel.messages["segment"].problem.isVisible()
    click(messages.log)
    assert ("open", "/logs") in [call for call in widget.host.calls if call[0] == "open"]
    click(messages.close)
    assert not messages.problem.isVisible()
    assert widget.ui.quantizeButton.enabled


def test_packages_are_asked_for_once_and_only_by_a_button(widget, engine):
    from MedQuantSlicerLib.host import Missing

    widget.host.lacks = Missing("MedQuant needs PyTorch. Install?")
    choose_scan(widget)
    assert engine.asked == []
    click(widget.ui.quantizeButton)
    assert [call for call in widget.host.calls if call[0] == "confirm"] == [
        ("confirm", "MedQuant needs PyTorch. Install?")
    ]
    (_, progress, done, _error) = next(call for call in widget.host.calls if call[0] == "install")
    progress("Fetching torch")
    settle()
    assert widget.panel.messages["quantize"].what.text == "Fetching torch"
    widget.host.lacks = None
    done()
    settle()
    assert engine.last("quantize").params["bits"] == 4


def test_what_is_done_folds_and_says_what_was_chosen(widget, engine):
    volume = choose_scan(widget)
    engine.answer("sizes", SIZES)
    click(widget.ui.quantizeButton)
    engine.answer("quantize", QUANTIZED)
    box = draw_box(volume)
    click(widget.ui.segmentButton)
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[3:5, 4:8, 4:9] = 1
    for name in ("fp32.npy", "w4.npy"):
        mask = mask_of(engine, name, labels)
        engine.answer("segment", {"mask": mask, "size_text": "7.7 MB", "seconds_text": "3.1 s"})
    worst = {"text": "Slice 4 differs most", "position": [0.0, 0.0, 0.0]}
    difference = mask_of(engine, "difference.npy", labels)
    engine.answer("compare", {"table": a_table(), "worst": worst, "difference": difference, "verdict": "masks as FP32"})
    settle(60)
    ui = widget.ui
    assert [ui.scanSection.collapsed, ui.modelSection.collapsed, ui.segmentSection.collapsed] == [True] * 3
    assert not ui.quantizeSection.collapsed, "the bits stay beside the comparison"
    assert ui.segmentSection.text == "Segment: 1 box: liver"
    assert ui.modelSection.text == "Model: Small promptable model"
    assert box.GetDisplayNode().GetOpacity() < 0.5, "the box steps back behind the masks"
    # The next step is in an open section, whatever was folded.
    for button in ("worstButton", "differenceButton"):
        assert primary(widget) == [button]
        click(getattr(ui, button))
    assert primary(widget) == [], "the path is done"
    click(ui.bits2Button)
    assert primary(widget) == ["quantizeButton"]
    click(ui.quantizeButton)
    engine.answer("quantize", QUANTIZED | {"handle": "q2", "bits": 2})
    settle(60)
    assert not ui.segmentSection.collapsed
    assert primary(widget) == ["segmentButton"]
    assert box.GetDisplayNode().GetOpacity() > 0.5


def test_after_a_cancel_the_step_that_was_cancelled_is_in_sight_again(widget, engine):
    """Also where its section was folded, and it was begun and stopped by its key."""
    volume = choose_scan(widget)
    click(widget.ui.quantizeButton)
    engine.answer("quantize", QUANTIZED)
    draw_box(volume)
    ui = widget.ui
    ui.segmentSection.collapsed = True
    settle()
    assert not ui.segmentButton.isVisible()
    for _ in range(2):
        widget.panel.keys()["S"]()
        settle()
    assert engine.last("segment").cancelled
    assert primary(widget) == ["segmentButton"]
    assert not ui.segmentSection.collapsed and ui.segmentButton.isVisible()
    ui.segmentSection.collapsed = True
    settle(100)
    assert ui.segmentSection.collapsed, "who folds it has the last word"
    widget.panel.presenter.find_sensitivity()
    widget.panel.presenter.cancel()
    settle(100)
    assert ui.segmentSection.collapsed, "that was no step of the path"


def test_a_closed_scene_leaves_an_empty_panel(widget, slicer):
    draw_box(choose_scan(widget))
    slicer.mrmlScene.Clear(0)
    settle(250)
    assert widget.panel.presenter.shown.scan == ""
    assert widget.ui.boxList.topLevelItemCount == 0
    assert widget.parameters.parameterNode.GetScene() is slicer.mrmlScene
    choose_scan(widget)
    assert widget.panel.presenter.shown.scan
    click(widget.ui.bits8Button)
    assert widget.panel.presenter.shown.bits == 8
