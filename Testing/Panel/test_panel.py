"""The panel by real clicks, with an engine that answers what it is told to."""

from __future__ import annotations

import numpy as np
import panel_fakes as fakes
import panel_geometries as geometries
import pytest

SIZES = {
    "choices": {"8": {"size": "4.3 MB"}, "4": {"size": "2.5 MB", "seconds": "48 ms a slice"}, "2": {"size": "1.6 MB"}}
}
QUANTIZED = {"handle": "q1", "bits": 4, "text": "2.5 MB, 4.2 bits/weight", "pieces": 8}


@pytest.fixture
def widget(slicer, scene, engine):
    import qt

    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    made = fakes.make_widget(engine, holder)
    holder.resize(420, 1400)
    holder.show()
    _settle()
    yield made
    made.cleanup()
    holder.close()
    _settle()


def _settle(milliseconds=30):
    import time

    import qt

    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        qt.QApplication.processEvents()
        time.sleep(0.002)


def _leave_the_panel():
    """Nothing of the panel has the focus, as after a click into a view."""
    import qt

    focused = qt.QApplication.focusWidget()
    if focused is not None:
        focused.clearFocus()


def _click(button):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    assert button.isVisible(), f"{button.objectName} cannot be seen"
    assert button.enabled, f"{button.objectName} cannot be pressed: {button.toolTip}"
    QTest.mouseClick(button, Qt.LeftButton)
    _settle()


def _scan(widget, name="axial"):
    volume = geometries.add_volume(name)
    volume.CreateDefaultDisplayNodes()
    widget.parameters.inputVolume = volume
    _settle()
    return volume


def _box(widget, volume, name="liver"):
    from MedQuantSlicerLib import boxes

    box = boxes.new_box(volume, name)
    boxes.fit_box(box, volume, (2, 3, 2), (9, 9, 5))
    _settle(250)
    return box


def _mask(engine, name, labels):
    np.save(engine.folder / name, labels)
    return {"array": name, "labels": {"1": "liver"}, "bits": 4}


def _table():
    def cells(*texts):
        return [{"text": text} for text in texts]

    return {
        "columns": ["Dice", "time", "on disk"],
        "tooltips": ["overlap", "of the whole scan", "the file"],
        "headline": "Dice .994, masks as FP32",
        "notes": ["Smaller, not faster."],
        "rows": [
            {"title": "liver", "cells": cells(".994", "", "")},
            {"title": "FP32", "cells": cells("1", "3.1 s", "7.7 MB"), "of_all": True, "badges": ["float32", "CPU"]},
            {"title": "4-bit", "cells": cells(".994", "2.9 s", "2.5 MB"), "of_all": True, "badges": ["simulated"]},
        ],
    }


def _primary(widget):
    import qt

    return [b.objectName for b in widget.root.findChildren(qt.QPushButton) if b.property("primary")]


def test_without_a_scan_the_sample_is_the_one_thing_to_press(widget, engine):
    assert _primary(widget) == ["sampleButton"]
    assert not widget.ui.quantizeButton.enabled
    assert "scan" in widget.ui.quantizeButton.toolTip
    assert engine.asked == [], "nothing is asked, so nothing is started"
    _click(widget.ui.sampleButton)
    assert widget.sampled


def test_a_scan_is_described(widget):
    _scan(widget)
    assert "16 \N{MULTIPLICATION SIGN} 12 \N{MULTIPLICATION SIGN} 9" in widget.ui.scanLabel.text
    assert not widget.ui.emptyWidget.isVisible()
    assert _primary(widget) == ["quantizeButton"]


def test_what_cannot_be_used_says_why(widget, slicer, scene):
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    slicer.util.updateVolumeFromArray(colour, np.zeros((2, 3, 4, 3), np.uint8))
    widget.parameters.inputVolume = colour
    _settle()
    assert "several values" in widget.ui.hintLabel.text
    assert not widget.ui.quantizeButton.enabled


def test_from_scan_to_comparison_by_clicks(widget, engine, slicer):
    from MedQuantSlicerLib import masks

    volume = _scan(widget)
    engine.answer("sizes", SIZES)
    _click(widget.ui.bits2Button)
    assert widget.parameters.bits == 2
    _click(widget.ui.bits4Button)
    assert widget.ui.bits4Button.checked
    assert not widget.ui.bits2Button.checked

    _click(widget.ui.quantizeButton)
    asked = engine.last("quantize")
    assert (asked.params["bits"], asked.params["method"]) == (4, "permutation-comq")
    np.testing.assert_array_equal(
        np.load(engine.path(asked.params["volume"]["array"])), slicer.util.arrayFromVolume(volume)
    )
    asked.callbacks["on_progress"]({"fraction": 0.36, "text": "Quantizing layer 17 of 48", "seconds_left": 42})
    _settle()
    messages = widget.panel.messages["quantize"]
    assert (messages.what.text, messages.left.text) == ("Quantizing layer 17 of 48", "0:42 left")
    assert messages.bar.value == 360
    assert widget.ui.quantizeButton.text == "Cancel"
    assert not widget.ui.segmentButton.enabled
    engine.answer("quantize", QUANTIZED)
    _settle()
    assert "2.5 MB" in widget.ui.quantizedLabel.text
    assert _primary(widget) == ["placeBoxButton"]

    _box(widget, volume)
    assert widget.ui.boxList.topLevelItem(0).text(0) == "liver"
    assert _primary(widget) == ["segmentButton"]
    _click(widget.ui.segmentButton)
    first = np.zeros((9, 12, 16), np.uint8)
    first[3:5, 4:8, 4:9] = 1
    part = _mask(engine, "part.npy", first[3:4]) | {"offset": [3, 0, 0]}
    engine.last("segment").callbacks["on_partial"]({"masks": part})
    node = masks.segmentation_of("fp32", volume)
    assert masks.labels_on(node, volume)[0].sum() == first[3].sum()
    done = {"size_text": "7.7 MB", "seconds_text": "3.1 s"}
    engine.answer("segment", {"mask": _mask(engine, "fp32.npy", first), **done})
    second = first.copy()
    second[4, 7] = 0
    engine.answer("segment", {"mask": _mask(engine, "w4.npy", second), **done})
    for kind, labels in (("fp32", first), ("quantized", second)):
        np.testing.assert_array_equal(masks.labels_on(masks.segmentation_of(kind, volume), volume)[0], labels)

    difference = _mask(engine, "difference.npy", (first != second).astype(np.uint8))
    worst = {"text": "Slice 4 differs most: 5 voxels", "position": [0.0, 0.0, 0.0]}
    engine.answer("compare", {"table": _table(), "worst": worst, "difference": difference, "verdict": "masks as FP32"})
    _settle()
    assert widget.ui.headlineLabel.text == "Dice .994, masks as FP32"
    assert widget.ui.compareTable.topLevelItem(0).text(1) == ".994"
    rows = [widget.ui.costTable.topLevelItem(row) for row in range(widget.ui.costTable.topLevelItemCount)]
    assert ["on disk", "7.7 MB", "2.5 MB"] in [[row.text(place) for place in range(3)] for row in rows]
    assert _primary(widget) == ["worstButton"]
    _click(widget.ui.differenceButton)
    assert masks.segmentation_of("difference", volume) is not None
    _click(widget.ui.differenceButton)
    assert masks.segmentation_of("difference", volume) is None
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(volume).ravel(), np.arange(volume.GetImageData().GetNumberOfPoints())
    )


def test_cancel_stands_where_the_work_was_started(widget, engine):
    _scan(widget)
    _click(widget.ui.quantizeButton)
    _click(widget.ui.quantizeButton)
    assert engine.last("quantize").cancelled
    assert widget.ui.quantizeButton.text == "Quantize"
    assert not widget.panel.messages["quantize"].problem.isVisible()


def test_a_problem_stands_where_the_action_was(widget, engine):
    _scan(widget)
    _click(widget.ui.quantizeButton)
    engine.last("quantize").callbacks["on_error"](
        {"kind": "memory", "message": "No memory. Do this.", "log": "/logs/engine.log"}
    )
    _settle()
    messages = widget.panel.messages["quantize"]
    assert messages.problem.isVisible()
    assert messages.trouble.text == "No memory. Do this."
    assert not widget.panel.messages["segment"].problem.isVisible()
    _click(messages.log)
    assert ("open", "/logs") in [call for call in widget.host.calls if call[0] == "open"]
    _click(messages.close)
    assert not messages.problem.isVisible()
    assert widget.ui.quantizeButton.enabled


def test_choices_reach_the_engine_and_the_scene(widget, engine):
    _scan(widget)
    _click(widget.ui.methodFold)
    widget.ui.methodSelector.setCurrentText("GPTQ")
    widget.ui.granularitySelector.setCurrentText("One for each 64 weights")
    widget.ui.activationsSelector.setCurrentText("Floating point (smaller, not faster)")
    widget.ui.slicesSpin.setValue(5)
    assert not widget.ui.firstSpin.isVisible()
    widget.ui.whereSelector.setCurrentText("From a range")
    _settle()
    assert widget.ui.firstSpin.isVisible()
    widget.ui.firstSpin.setValue(2)
    widget.ui.lastSpin.setValue(7)
    _click(widget.ui.quantizeButton)
    params = engine.last("quantize").params
    assert (params["method"], params["granularity"], params["activations"]) == ("gptq", "per-group-64", 0)
    assert params["slices"] == {"count": 5, "where": "range", "first": 2, "last": 7}
    node = widget.parameters.parameterNode
    assert (node.GetParameter("method"), node.GetParameter("slices")) == ("GPTQ", "5")


def test_a_model_of_the_users_own_is_saved_without_the_home_that_it_lies_in(widget, tmp_path, monkeypatch):
    from pathlib import Path
    from types import SimpleNamespace

    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    panel, spec = widget.panel, str(tmp_path / "liver.pth")
    facts = panel.presenter.facts
    facts.models.append(SimpleNamespace(**{**vars(facts.models[0]), "spec": spec}))
    panel.presenter.model_chosen(spec)
    assert facts.model == spec and widget.parameters.model == "<home>/liver.pth"
    panel.presenter.model_chosen("embedded")
    widget.parameters.model = "<home>/liver.pth"
    _settle()
    assert facts.model == spec


def test_models_are_searched_and_chosen(widget):
    _scan(widget)
    assert not widget.ui.modelList.isVisible()
    _click(widget.ui.modelButton)
    everything = widget.ui.modelList.topLevelItemCount
    widget.ui.modelSearch.setText("medsam")
    _settle()
    found = widget.ui.modelList.topLevelItemCount
    assert 0 < found < everything
    assert "MedSAM" in widget.ui.modelList.topLevelItem(0).text(0)
    widget.ui.modelList.itemClicked.emit(widget.ui.modelList.topLevelItem(0), 0)
    _settle()
    assert not widget.ui.modelList.isVisible()
    assert widget.parameters.model == widget.panel.presenter.shown.model == "medsam"
    assert _primary(widget) == ["downloadButton"]


def test_a_box_is_named_and_removed_in_the_list(widget):
    volume = _scan(widget)
    box = _box(widget, volume, "Structure 1")
    _box(widget, volume, "Structure 2")
    item = widget.ui.boxList.topLevelItem(0)
    item.setText(0, "spleen")
    _settle()
    assert box.GetName() == "spleen"
    assert [one.name for one in widget.host.boxes()] == ["spleen", "Structure 2"]
    widget.ui.boxList.itemClicked.emit(widget.ui.boxList.topLevelItem(0), 1)
    _settle(250)
    assert [one.name for one in widget.host.boxes()] == ["Structure 2"]
    assert widget.ui.boxList.topLevelItemCount == 1


def test_a_box_from_a_segment(widget):
    from MedQuantSlicerLib import masks

    volume = _scan(widget, "oblique")
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[3:6, 2:8, 5:9] = 1
    node = masks.show("fp32", labels, {1: "liver"}, volume, title="drawn")
    node.SetAttribute(masks.KIND_ATTRIBUTE, "")
    menu = widget.ui.boxFromSegmentButton.menu()
    menu.aboutToShow.emit()
    menu.actions()[0].trigger()
    _settle(250)
    (box,) = widget.host.boxes()
    assert box.name == "liver"
    inverse = np.linalg.inv(np.array(widget.host.volume().ijk_to_lps))
    corners = np.array([inverse @ [*corner, 1.0] for corner in box.corners])[:, :3]
    np.testing.assert_allclose(corners.min(axis=0), [4.5, 1.5, 2.5], atol=1e-4)
    np.testing.assert_allclose(corners.max(axis=0), [8.5, 7.5, 5.5], atol=1e-4)


def test_a_moved_scan_is_noticed(widget):
    volume = _scan(widget)
    before = widget.panel.presenter.shown
    volume.SetAndObserveTransformNodeID(geometries.add_transform(geometries.moved()).GetID())
    _settle(250)
    assert widget.panel.presenter.facts.volume.key == widget.host.volume().key
    assert before.scan == widget.panel.presenter.shown.scan


def test_heatmap_fills_folds_and_is_clicked(widget, engine):
    _scan(widget)
    widget.ui.layersSection.collapsed = False
    _settle()
    _click(widget.ui.sensitivityButton)
    partial = engine.last("sensitivity").callbacks["on_partial"]
    for block in (0, 1):
        for layer in ("attn.qkv", "mlp.lin1"):
            for bits, effect in ((8, 0.001), (4, 0.01), (2, 0.2 + 0.1 * block)):
                cell = {"layer": f"encoder.layers.{block}.{layer}", "kind": "Linear", "shape": [8, 8], "share": 0.1}
                partial({"cell": {**cell, "bits": bits, "effect": effect}})
    engine.answer("sensitivity", {"cells": []})
    _settle()
    tree = widget.ui.heatmap
    assert tree.isVisible()
    assert tree.topLevelItemCount == 2
    block = tree.topLevelItem(1)
    assert block.text(0) == "encoder.layers.1  #1  #2", "a folded block tells which of the worst it holds"
    assert block.child(0).text(3) == "30"
    assert block.text(3) == "30", "a folded block shows its worst layer"
    bright, dark = (block.child(0).background(place).color().lightness() for place in (1, 3))
    assert bright > 230
    assert dark < 100
    assert not widget.ui.keepButton.enabled
    tree.itemClicked.emit(block.child(0), 3)
    _settle()
    assert "encoder.layers.1.attn.qkv" in widget.ui.layerLabel.text
    _click(widget.ui.keepButton)
    assert "encoder.layers.1.attn.qkv" in widget.ui.wishesLabel.text
    _click(widget.ui.quantizeButton)
    assert engine.last("quantize").params["overrides"] == {"encoder.layers.1.attn.qkv": 8}


def _choose(combo, text):
    """Choose an entry of a combo box by its list, as a hand does with the keys."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    assert combo.isVisible(), f"{combo.objectName} cannot be seen"
    entries = [combo.itemText(place) for place in range(combo.count)]
    QTest.keyClick(combo, Qt.Key_Home)
    for _ in range(entries.index(text)):
        QTest.keyClick(combo, Qt.Key_Down)
    _settle()
    assert combo.currentText == text


def test_a_view_that_measures_masks_is_chosen_filled_and_read(widget, engine):
    _scan(widget)
    ui = widget.ui
    ui.layersSection.collapsed = False
    _settle()
    assert not ui.viewSelector.isVisible(), "folded away"
    assert "quick estimate" in ui.layersLabel.text
    _click(ui.viewFold)
    _choose(ui.viewSelector, "One rounded at a time")
    _choose(ui.whatSelector, "Weights and activations")
    assert "masks" in ui.layersLabel.text
    _click(ui.sensitivityButton)
    asked = engine.last("sensitivity")
    assert asked.params["views"] == ("proxy", "one-at-a-time") and asked.params["what"] == "both"
    assert ui.sensitivityButton.text == "Cancel"
    about = {"kind": "Linear", "shape": [8, 8], "share": 0.5}
    histogram = {"minimum": -0.5, "maximum": 2.0, "counts": [0, 9, 900, 1]}
    told = [{"layer": f"layers.{n}.lin", "weights": histogram, "inputs": histogram} for n in (0, 1)]
    asked.callbacks["on_partial"]({"histograms": told})
    cells = []
    for n in (0, 1):
        for bits in (2, 8):
            cell = {**about, "layer": f"layers.{n}.lin", "bits": bits, "effect": 0.4}
            cells.append({**cell, "view": "proxy", "dsc_loss": None, "dsc": None})
            cells.append({**cell, "view": "one-at-a-time", "dsc_loss": 0.1 * n / bits, "dsc": 1 - 0.1 * n / bits})
    asked.callbacks["on_partial"]({"cell": cells[0]})
    _settle()
    assert ui.legendLabel.text.startswith("Quick estimate"), "shown until the masks are measured"
    for cell in cells[1:]:
        asked.callbacks["on_partial"]({"cell": cell})
    agreement = [{"views": ["proxy", "one-at-a-time"], "bits": 2, "spearman": 0.25, "rounding": "W2A2"}]
    engine.answer("sensitivity", {"cells": cells, "agreement": agreement})
    _settle()
    assert ui.legendLabel.text.startswith("Masks: Dice against FP32 falls by")
    assert ".25 at 2 bits" in ui.agreementLabel.text
    tree = ui.heatmap
    row = tree.topLevelItem(1).child(0)
    assert row.text(2) == "5.0" and "Dice against FP32 .950" in row.toolTip(2) and "5.0 % less" in row.toolTip(2)
    assert tree.headerItem().toolTip(2).startswith("Masks")
    assert not ui.histograms.isVisible()
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    at = tree.visualItemRect(row).center()
    QTest.mouseClick(tree.viewport(), Qt.LeftButton, Qt.NoModifier, at)
    _settle()
    assert ui.histograms.isVisible() and ui.weightsPicture.width > 100
    assert ui.weightsLabel.text == "Weights \N{MINUS SIGN}0.5 to 2" and ui.inputsLabel.text.startswith("Inputs")
    assert "layers.1.lin" in ui.layerLabel.text and ".950 (2-bit)" in ui.layerLabel.text
    _click(ui.keepButton)
    assert "layers.1.lin" in ui.wishesLabel.text
    tree.topLevelItem(0).setExpanded(False)
    _choose(ui.viewSelector, "Quick estimate")
    assert [tree.topLevelItem(n).isExpanded() for n in (0, 1)] == [False, True], "folds stay as they were left"
    assert ui.legendLabel.text.startswith("Quick estimate") and tree.topLevelItem(1).child(0).text(2) == "40"
    assert "not looked at" in tree.topLevelItem(1).child(0).toolTip(2)
    _choose(ui.viewSelector, "One spared at a time")
    assert not tree.isVisible() and not ui.legendLabel.isVisible() and not ui.histograms.isVisible()


def test_bars_of_a_histogram_are_as_high_as_the_logarithm_of_their_counts(slicer):
    from MedQuantSlicerLib.histograms import BAR, HIGH, picture_of
    from MedQuantSlicerLib.layer_state import Histogram

    image = picture_of(Histogram(0.0, 1.0, (0, 1, 1000, 10))).toImage()
    bars = [sum(image.pixelColor(BAR * n + 4, y).blue() > 200 for y in range(HIGH)) for n in range(4)]
    assert bars[0] == 0 < bars[1] < bars[3] < bars[2] == HIGH - 4
    assert bars[3] / bars[2] == pytest.approx(np.log(11) / np.log(1001), abs=0.01)
    assert image.pixelColor(0, 0).alpha() == 0


def test_the_smallest_safe_model_by_clicks(widget, engine):
    _scan(widget)
    engine.answer("sizes", SIZES)
    ui = widget.ui
    _choose(ui.toleranceSelector, "Dice at least .98")
    _click(ui.safeButton)
    assert engine.last("find_safe").params["tolerance"] == {"dsc": 0.98}
    assert ui.safeButton.text == "Cancel" and not ui.quantizeButton.enabled
    engine.last("find_safe").callbacks["on_progress"]({"text": "Candidate: Quantizing layer 3", "fraction": 0.4})
    _settle()
    assert widget.panel.messages["quantize"].bar.value == 400
    _click(ui.safeButton)
    assert engine.last("find_safe").cancelled and ui.safeButton.enabled
    _click(ui.safeButton)
    long = "mask_decoder.transformer.layers.0.cross_attn_image_to_token.q_proj"
    precise = [long, *(f"layers.{n}.mlp.lin1" for n in range(5))]
    found = {"safe": True, "handle": "s1", "bits": 0, "text": "2.0 MB, 3.2 bits/weight (15 MB in FP32)", "pieces": 5}
    engine.answer("find_safe", {**found, "found": "Dice .983 on held-out slices", "precise": precise})
    _settle()
    assert widget.parameters.safe and ui.safeButton.property("chosen")
    assert not any(getattr(ui, f"bits{bits}Button").checked for bits in (8, 4, 2))
    text = ui.safeLabel.text
    assert "3.2 bits/weight" in text and "Dice .983" in text and "layers.0" in text and "3 more" in text
    assert "compare" in text
    assert ui.safeLabel.toolTip.splitlines() == precise
    widget.panel.presenter.keep_precise("layers.0.mlp.lin1", 32)
    _settle()
    assert "Not looked for yet with these choices" in ui.safeLabel.text and not ui.safeButton.property("chosen")
    widget.panel.presenter.keep_precise("layers.0.mlp.lin1", 32)
    _settle()
    assert widget.root.minimumSizeHint.width() <= 420
    assert _primary(widget) == ["placeBoxButton"]
    _click(ui.bits4Button)
    assert not widget.parameters.safe and ui.bits4Button.checked and not ui.safeButton.property("chosen")
    assert _primary(widget) == ["quantizeButton"]
    _click(ui.safeButton)
    assert widget.parameters.safe and not ui.bits4Button.checked
    widget.parameters.bits = 8
    _settle()
    assert not widget.parameters.safe and ui.bits8Button.checked


def test_where_nothing_is_safe_the_panel_says_so(widget, engine):
    _scan(widget)
    _click(widget.ui.safeButton)
    told = {"safe": False, "handle": "", "found": "Dice .971 on held-out slices", "text": "8.1 bits/weight"}
    engine.answer("find_safe", told)
    _settle()
    said = widget.panel.messages["quantize"].notice.text
    assert "Nothing smaller is safe" in said and "Dice .971" in said
    assert not widget.parameters.safe and widget.ui.bits4Button.checked
    assert not widget.ui.safeLabel.isVisible()


@pytest.mark.parametrize("blocks", [4, 25])
def test_the_worst_layers_are_named_however_many_there_are(widget, engine, blocks):
    from MedQuantSlicerLib.heatmap import MOST_ROWS

    _scan(widget)
    widget.ui.layersSection.collapsed = False
    _settle()
    _click(widget.ui.sensitivityButton)
    partial = engine.last("sensitivity").callbacks["on_partial"]
    for number in range(12 * blocks):
        layer = f"mask_decoder.transformer.layers.{number // 12}.cross_attn_token_to_image.q_proj_{number % 12}"
        shared = {"layer": layer, "kind": "Linear", "shape": [8, 8], "share": 0.001}
        for bits in (8, 4, 2):
            partial({"cell": {**shared, "bits": bits, "effect": (number + 1) / 1000 / bits}})
    engine.answer("sensitivity", {"cells": []})
    _settle(60)
    ui, tree = widget.ui, widget.ui.heatmap
    worst = widget.panel.presenter.shown.heatmap.worst
    assert len(worst) == 5
    assert all(f"href='{name}'" in ui.worstLayersLabel.text for name in worst)
    last = tree.topLevelItem(blocks - 1)
    assert last.text(0).endswith("#1  #2  #3  #4  #5"), "also where its block is folded"
    assert last.isExpanded() is (blocks == 4)
    room = tree.viewport().height / tree.visualItemRect(tree.topLevelItem(0)).height()
    assert room == round(room) <= MOST_ROWS, "no row is cut"
    ui.worstLayersLabel.linkActivated.emit(worst[2])
    _settle()
    assert tree.currentItem().text(0).startswith("cross_attn_token_to_image")
    assert widget.panel.presenter.shown.layer.name == worst[2]
    assert widget.root.minimumSizeHint.width() <= 420, "no name is wider than the panel"


def test_export_says_what_it_writes(widget, engine, tmp_path):
    _scan(widget)
    _click(widget.ui.quantizeButton)
    engine.answer("quantize", QUANTIZED)
    widget.ui.exportSection.collapsed = False
    widget.ui.folderEdit.setText(str(tmp_path))
    widget.ui.formatSelector.setCurrentIndex(1)
    _settle()
    assert "ONNX" in widget.ui.writesLabel.text
    _click(widget.ui.exportButton)
    params = engine.last("export").params
    assert (params["format"], params["folder"], params["handle"]) == ("onnx", str(tmp_path), "q1")
    engine.answer("export", {"folder": str(tmp_path / "made")})
    _settle()
    assert str(tmp_path / "made") in widget.panel.messages["export"].notice.text
    _click(widget.ui.openExportedButton)
    assert ("open", str(tmp_path / "made")) in widget.host.calls


def test_packages_are_asked_for_once_and_only_by_a_button(widget, engine):
    from MedQuantSlicerLib.host import Missing

    widget.host.lacks = Missing("MedQuant needs PyTorch. Install?")
    _scan(widget)
    assert engine.asked == []
    _click(widget.ui.quantizeButton)
    assert [call for call in widget.host.calls if call[0] == "confirm"] == [
        ("confirm", "MedQuant needs PyTorch. Install?")
    ]
    (_, progress, done, _error) = next(call for call in widget.host.calls if call[0] == "install")
    progress("Fetching torch")
    _settle()
    assert widget.panel.messages["quantize"].what.text == "Fetching torch"
    widget.host.lacks = None
    done()
    _settle()
    assert engine.last("quantize").params["bits"] == 4


def test_opacity_and_fill_reach_the_masks(widget):
    from MedQuantSlicerLib import masks

    volume = _scan(widget)
    node = masks.show("fp32", np.ones((9, 12, 16), np.uint8), {1: "liver"}, volume, title="FP32")
    widget.ui.opacitySlider.setValue(0.4)
    widget.ui.filledBox.setChecked(True)
    _settle()
    display = node.GetDisplayNode()
    assert display.GetOpacity2DOutline() == pytest.approx(0.4)
    assert display.GetVisibility2DFill()


def test_keys(widget, engine):
    from MedQuantSlicerLib import masks

    volume = _scan(widget)
    _box(widget, volume)
    widget.parameters.run = type(widget.parameters.run).FP32
    keys = widget.panel.keys()
    keys["S"]()
    _settle()
    assert engine.last("segment").params["of"] == "embedded"
    labels = np.ones((9, 12, 16), np.uint8)
    node = masks.show("fp32", labels, {1: "liver"}, volume, title="FP32")
    _leave_the_panel()
    keys["Space"]()
    assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeMedQuantQuantized")
    keys["Space"]()
    assert not node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeMedQuantQuantized")
    assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeMedQuantFP32")


def test_the_space_bar_belongs_to_what_has_the_focus(widget):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    _scan(widget)
    flips = []
    widget.host.flip = lambda: flips.append(1)
    widget.root.window().activateWindow()
    widget.ui.windowSelector.setFocus()
    _settle()
    QTest.keyClick(widget.ui.windowSelector, Qt.Key_Space)
    _settle()
    assert widget.ui.windowSelector.view().isVisible(), "the list opens"
    assert not flips
    widget.ui.windowSelector.hidePopup()
    widget.ui.filledBox.setVisible(True)
    widget.ui.filledBox.setFocus()
    QTest.keyClick(widget.ui.filledBox, Qt.Key_Space)
    assert widget.ui.filledBox.checked
    assert not flips
    _click(widget.ui.bits8Button)
    assert not widget.ui.bits8Button.hasFocus(), "a click leaves the space bar to the masks"
    _leave_the_panel()
    widget.panel.keys()["Space"]()
    assert flips == [1]


def test_what_is_done_folds_and_says_what_was_chosen(widget, engine):
    volume = _scan(widget)
    engine.answer("sizes", SIZES)
    _click(widget.ui.quantizeButton)
    engine.answer("quantize", QUANTIZED)
    box = _box(widget, volume)
    _click(widget.ui.segmentButton)
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[3:5, 4:8, 4:9] = 1
    for name in ("fp32.npy", "w4.npy"):
        mask = _mask(engine, name, labels)
        engine.answer("segment", {"mask": mask, "size_text": "7.7 MB", "seconds_text": "3.1 s"})
    worst = {"text": "Slice 4 differs most", "position": [0.0, 0.0, 0.0]}
    difference = _mask(engine, "difference.npy", labels)
    engine.answer("compare", {"table": _table(), "worst": worst, "difference": difference, "verdict": "masks as FP32"})
    _settle(60)
    ui = widget.ui
    assert [ui.scanSection.collapsed, ui.modelSection.collapsed, ui.segmentSection.collapsed] == [True] * 3
    assert not ui.quantizeSection.collapsed, "the bits stay beside the comparison"
    assert ui.segmentSection.text == "Segment: 1 box: liver"
    assert ui.modelSection.text == "Model: Small promptable model"
    assert box.GetDisplayNode().GetOpacity() < 0.5, "the box steps back behind the masks"
    # The next step is in an open section, whatever was folded.
    for button in ("worstButton", "differenceButton"):
        assert _primary(widget) == [button]
        _click(getattr(ui, button))
    assert _primary(widget) == [], "the path is done"
    _click(ui.bits2Button)
    assert _primary(widget) == ["quantizeButton"]
    _click(ui.quantizeButton)
    engine.answer("quantize", QUANTIZED | {"handle": "q2", "bits": 2})
    _settle(60)
    assert not ui.segmentSection.collapsed
    assert _primary(widget) == ["segmentButton"]
    assert box.GetDisplayNode().GetOpacity() > 0.5


def test_a_closed_scene_leaves_an_empty_panel(widget, slicer):
    _box(widget, _scan(widget))
    slicer.mrmlScene.Clear(0)
    _settle(250)
    assert widget.panel.presenter.shown.scan == ""
    assert widget.ui.boxList.topLevelItemCount == 0
    assert widget.parameters.parameterNode.GetScene() is slicer.mrmlScene
    _scan(widget)
    assert widget.panel.presenter.shown.scan
    _click(widget.ui.bits8Button)
    assert widget.panel.presenter.shown.bits == 8


def test_the_panel_turns_dark_with_the_application(widget):
    import qt

    application, before = qt.QApplication.instance(), widget.root.styleSheet
    palette = application.palette()
    dark = qt.QPalette(palette)
    dark.setColor(qt.QPalette.Window, qt.QColor("#202020"))
    dark.setColor(qt.QPalette.WindowText, qt.QColor("#E0E0E0"))
    application.setPalette(dark)
    try:
        _settle()
        assert widget.root.styleSheet != before
    finally:
        application.setPalette(palette)
    _settle()
    assert widget.root.styleSheet == before


def test_leaving_gives_the_layout_back_and_cleanup_observes_nothing(widget, slicer):
    widget.exit()
    assert ("restore",) in widget.host.calls


@pytest.mark.parametrize("width", [340, 420, 600])
def test_nothing_is_cut_off(widget, width):
    """Every visible label and button has the room that its text needs."""
    import qt

    _scan(widget)
    _click(widget.ui.methodFold)
    widget.parent.resize(width, 1800)
    _settle()
    assert widget.root.minimumSizeHint.width() <= width
    for button in widget.root.findChildren(qt.QPushButton):
        if button.isVisible() and button.text:
            needed = button.fontMetrics().horizontalAdvance(button.text)
            assert button.width >= needed, button.objectName
    for one in widget.root.findChildren(qt.QLabel):
        if one.isVisible() and one.wordWrap and one.text:
            assert one.height >= one.heightForWidth(one.width) - 2, one.text


def test_long_words_make_no_wide_panel(widget, engine):
    """CTK's sections are by nature as wide as their longest line; Slicer's panel would be pushed into the views."""
    from MedQuantSlicerLib.colormap import legend

    _scan(widget)
    _click(widget.ui.quantizeButton)
    message = "The scan could not be handed to the engine, and this is told at length. " * 5
    engine.last("quantize").callbacks["on_error"]({"kind": "user", "message": message})
    notes = (
        "4-bit is simulated: the file is smaller, the arithmetic is that of floating point.",
        "Not for clinical use.",
    )
    widget.ui.notesLabel.text = "\n".join(notes * 2)
    widget.ui.notesLabel.setVisible(True)
    widget.ui.layersSection.collapsed = False
    widget.ui.legendLabel.text = legend(1.0, "Masks: Dice against FP32 falls by")
    widget.ui.legendLabel.setVisible(True)
    _settle()
    assert widget.panel.messages["quantize"].problem.isVisible()
    assert widget.root.minimumSizeHint.width() <= 340


def test_a_tall_panel_leaves_its_sections_as_they_are(widget):
    """The room that is left is below the last section; the sensitivity, which scrolls, may take it."""
    _box(widget, _scan(widget))
    _click(widget.ui.modelButton)
    heights = {}
    for height in (1400, 2400):
        widget.parent.resize(420, height)
        _settle(60)
        heights[height] = [getattr(widget.ui, f"{name}Section").height for name in ("model", "segment", "compare")]
    assert heights[2400] == heights[1400]


def test_the_table_with_a_reference_fits_a_narrow_panel(widget, engine):
    """Six numbers for each structure stand in two tables; what each model has against the reference in one line."""
    from MedQuantSlicerLib import compare_table
    from MedQuantSlicerLib.state import Cell, Row, Table

    def row(title, *texts, **named):
        return Row(title, tuple(Cell(text) for text in texts), **named)

    small = ("int8 kernels (openvino)", "CPU", "4.2 bits/weight")
    table = Table(
        ("Dice", "NSD", "HD95 mm", "Volume mL", "FP32 to reference", "4-bit to reference", "Seconds"),
        ("",) * 7,
        (
            row("FP32", "", "", "", "2006.5", ".800", "", "1.95 s", of_all=True, badges=("float32", "CPU")),
            row("4-bit", ".991", ".98", "1.1", "2014.0", "", ".798", "1.97 s", of_all=True, badges=small),
            row("liver", ".989", ".978", "1.5", "1801.9 (+6.9)", ".821", ".819", ""),
            row("spleen", ".991", ".98", "1.0", "204.6 (+0.7)", ".779", ".777", ""),
        ),
        "",
    )
    ui = widget.ui
    compare_table.fill_structures((ui.compareTable, ui.referenceTable), table)
    compare_table.fill_models(ui.costTable, table)
    assert [ui.referenceTable.headerItem().text(place) for place in range(3)] == [
        "Structure",
        "FP32\nto reference",
        "4-bit\nto reference",
    ]
    lines = [ui.costTable.topLevelItem(row) for row in range(ui.costTable.topLevelItemCount)]
    told = [[line.text(place) for place in range(3)] for line in lines]
    assert ["Dice to reference", ".800", ".798"] in told
    assert ["Seconds", "1.95 s", "1.97 s"] in told
    assert ["Arithmetic", "float32", "int8 kernels"] in told
    assert ["Runs on", "PyTorch, CPU", "OpenVINO, CPU"] in told
    assert ["Weights", "", "4.2 bits/weight"] in told
    assert "NSD" not in [line[0] for line in told], "FP32 has none: it stands with the structures"
    widget.parent.resize(360, 1800)
    _settle()
    for tree in (ui.compareTable, ui.referenceTable, ui.costTable):
        widths = [tree.columnWidth(place) for place in range(tree.columnCount)]
        assert sum(widths) <= tree.width
        # Fonts differ from system to system: some room is left.
        assert widths[0] >= 1.2 * tree.fontMetrics().horizontalAdvance("Seconds")


def test_choices_return_with_a_saved_session(widget, slicer, scene, tmp_path):
    volume = _scan(widget, "coronal")
    _box(widget, volume)
    _click(widget.ui.bits2Button)
    widget.parameters.method = type(widget.parameters.method).RTN
    path = tmp_path / "session.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(0)
    _settle(200)
    _click(widget.ui.bits8Button)
    assert widget.panel.presenter.shown.scan == ""
    reader = slicer.vtkMRMLApplicationLogic()
    reader.SetMRMLScene(scene)
    (tmp_path / "unpacked").mkdir()
    assert reader.OpenSlicerDataBundle(str(path), str(tmp_path / "unpacked"))
    _settle(250)
    shown = widget.panel.presenter.shown
    assert widget.parameters.inputVolume.GetName() == "coronal scan"
    assert "16" in shown.scan
    assert (shown.bits, shown.options.method) == (2, "rtn")
    assert widget.ui.bits2Button.checked
    assert widget.ui.methodSelector.currentText == "Round to nearest (fastest)"
    assert [box.name for box in widget.host.boxes()] == ["liver"]
    assert widget.ui.boxList.topLevelItemCount == 1


def test_news_are_scrolled_into_sight(slicer, scene, engine):
    import qt

    area, holder = qt.QScrollArea(), qt.QWidget()
    qt.QVBoxLayout(holder)
    widget = fakes.make_widget(engine, holder)
    area.setWidget(holder)
    area.setWidgetResizable(True)
    area.resize(380, 500)
    area.show()
    try:
        _scan(widget)
        widget.ui.layersSection.collapsed = False
        _settle()
        widget.panel.presenter.find_sensitivity()
        _settle()
        engine.last("sensitivity").callbacks["on_error"]({"kind": "user", "message": "Too small. Take another."})
        _settle(60)
        place = widget.panel.messages["layers"].problem
        top = place.mapTo(area.viewport(), qt.QPoint(0, 0)).y()
        assert 0 <= top < area.viewport().height - 40
    finally:
        widget.cleanup()
        area.close()
        _settle()
