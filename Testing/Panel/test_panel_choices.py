"""What is chosen in the panel: models, bits, settings and exports reach the engine and return with a session."""

from __future__ import annotations

import pytest
from panel_fakes import QUANTIZED, SIZES
from panel_hands import choose, choose_scan, click, draw_box, primary, settle, show

ARROW = 24
"""Pixels of a selector that its text does not get."""


@pytest.fixture
def widget(widget):
    """The panel on the screen."""
    return show(widget)


def test_choices_reach_the_engine_and_the_scene(widget, engine):
    choose_scan(widget)
    click(widget.ui.methodFold)
    widget.ui.methodSelector.setCurrentText("GPTQ")
    widget.ui.granularitySelector.setCurrentText("One for each 64 weights")
    widget.ui.activationsSelector.setCurrentText("Floating point (smaller, not faster)")
    widget.ui.slicesSpin.setValue(5)
    assert not widget.ui.firstSpin.isVisible()
    widget.ui.whereSelector.setCurrentText("From a range")
    settle()
    assert widget.ui.firstSpin.isVisible()
    widget.ui.firstSpin.setValue(2)
    widget.ui.lastSpin.setValue(7)
    click(widget.ui.quantizeButton)
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
    settle()
    assert facts.model == spec


def test_models_are_searched_and_chosen(widget):
    choose_scan(widget)
    assert not widget.ui.modelList.isVisible()
    click(widget.ui.modelButton)
    everything = widget.ui.modelList.topLevelItemCount
    widget.ui.modelSearch.setText("medsam")
    settle()
    found = widget.ui.modelList.topLevelItemCount
    assert 0 < found < everything
    assert "MedSAM" in widget.ui.modelList.topLevelItem(0).text(0)
    widget.ui.modelList.itemClicked.emit(widget.ui.modelList.topLevelItem(0), 0)
    settle()
    assert not widget.ui.modelList.isVisible()
    assert widget.parameters.model == widget.panel.presenter.shown.model == "medsam"
    assert primary(widget) == ["downloadButton"]


def test_the_verdict_on_a_button_is_of_the_scan_that_is_open(slicer, widget, engine):
    import qt

    def turn_to(scan) -> None:
        widget.parameters.inputVolume = scan
        settle()

    first, second = choose_scan(widget), choose_scan(widget)
    slicer.util.updateVolumeFromArray(second, slicer.util.arrayFromVolume(second) + 1)
    turn_to(first)
    digest, four = widget.panel.presenter.facts.volume.digest, {**SIZES["choices"]["4"], "verdicts": {}}
    engine.answer("sizes", {"choices": {**SIZES["choices"], "4": {**four, "verdicts": {digest: "masks as FP32"}}}})
    settle()

    def told() -> tuple[list[str], str]:
        button = widget.ui.bits4Button
        return [one.text for one in button.findChildren(qt.QLabel)][2:], button.toolTip

    words, tip = told()
    assert sorted(words) == ["2.5 MB", "48 ms a slice", "masks as FP32"] and "masks as FP32, on this scan" in tip
    turn_to(second)
    words, tip = told()
    assert sorted(words) == ["2.5 MB", "not measured", "\N{ALMOST EQUAL TO} 48 ms a slice"]
    assert "not compared on this scan yet" in tip and "before" in tip
    turn_to(first)
    assert "masks as FP32" in told()[0]
    engine.answer("sizes", {"choices": {**SIZES["choices"], "4": {**four, "verdicts": {digest: "visible loss: look"}}}})
    settle()
    words, tip = told()
    assert "visible loss" in words and "visible loss: look" in tip, "the button has no room for what to do"


def _lines(label) -> list[str]:
    """The lines that a label's text may break into, at whatever width: as short as they can be."""
    import qt

    found = []
    for paragraph in label.text.splitlines():
        layout = qt.QTextLayout(paragraph, label.font)
        layout.beginLayout()
        while (line := layout.createLine()).isValid():
            line.setLineWidth(1)
            found.append(paragraph[line.textStart() : line.textStart() + line.textLength()])
        layout.endLayout()
    return found


def test_the_smallest_safe_model_by_clicks(widget, engine):
    from MedQuantSlicerLib.heatmap import ELLIPSIS

    choose_scan(widget)
    engine.answer("sizes", SIZES)
    ui = widget.ui
    choose(ui.toleranceSelector, "Mean Dice at least .98")
    selector = ui.toleranceSelector
    assert selector.fontMetrics().horizontalAdvance(selector.currentText) + ARROW <= selector.width, "all of it is seen"
    click(ui.safeButton)
    assert engine.last("find_safe").params["tolerance"] == {"dsc": 0.98}
    assert ui.safeButton.text == "Cancel" and not ui.quantizeButton.enabled
    engine.last("find_safe").callbacks["on_progress"]({"text": "Candidate: Quantizing layer 3", "fraction": 0.4})
    settle()
    assert widget.panel.messages["quantize"].bar.value == 400
    click(ui.safeButton)
    assert engine.last("find_safe").cancelled and ui.safeButton.enabled
    click(ui.safeButton)
    long = "mask_decoder.transformer.layers.0.cross_attn_image_to_token.q_proj"
    precise = [long, *(f"layers.{n}.mlp.lin1" for n in range(5))]
    found = {"safe": True, "handle": "s1", "bits": 0, "text": "2.0 MB, 3.2 bits/weight (15 MB in FP32)", "pieces": 5}
    engine.answer("find_safe", {**found, "found": "Mean Dice .983 on 13 held-out slices", "precise": precise})
    settle()
    assert widget.parameters.safe and ui.safeButton.property("chosen")
    assert not any(getattr(ui, f"bits{bits}Button").checked for bits in (8, 4, 2))
    text = ui.safeLabel.text
    assert "3.2 bits/weight" in text and "Dice .983" in text and "layers.0" in text and "3 more" in text
    assert "compare" in text and "on 13 held-out slices" in text and "Few" not in text
    assert ELLIPSIS in text and not any(line.rstrip().endswith(ELLIPSIS) for line in _lines(ui.safeLabel))
    assert ui.safeLabel.toolTip.splitlines() == precise
    widget.panel.presenter.keep_precise("layers.0.mlp.lin1", 32)
    settle()
    assert "Not looked for yet with these choices" in ui.safeLabel.text and not ui.safeButton.property("chosen")
    widget.panel.presenter.keep_precise("layers.0.mlp.lin1", 32)
    settle()
    assert widget.root.minimumSizeHint.width() <= 420
    assert primary(widget) == ["placeBoxButton"]
    click(ui.bits4Button)
    assert not widget.parameters.safe and ui.bits4Button.checked and not ui.safeButton.property("chosen")
    assert primary(widget) == ["quantizeButton"]
    click(ui.safeButton)
    assert widget.parameters.safe and not ui.bits4Button.checked
    widget.parameters.bits = 8
    settle()
    assert not widget.parameters.safe and ui.bits8Button.checked


def test_where_nothing_is_safe_the_panel_says_so(widget, engine):
    choose_scan(widget)
    click(widget.ui.safeButton)
    told = {"safe": False, "handle": "", "found": "Dice .971 on held-out slices", "text": "8.1 bits/weight"}
    engine.answer("find_safe", told)
    settle()
    said = widget.panel.messages["quantize"].notice.text
    assert "Nothing smaller is safe" in said and "Dice .971" in said
    assert not widget.parameters.safe and widget.ui.bits4Button.checked
    assert not widget.ui.safeLabel.isVisible()


def test_the_smallest_safe_model_is_chosen_in_a_session_where_it_was(widget, engine, slicer, scene, tmp_path):
    choose_scan(widget)
    choose(widget.ui.toleranceSelector, "Mean Dice at least .95")
    click(widget.ui.safeButton)
    handle = tmp_path / "s.mq.safetensors"
    handle.touch()
    found = {"safe": True, "handle": str(handle), "bits": 0, "text": "1.6 MB", "pieces": 5, "found": "Mean Dice .96"}
    engine.answer("find_safe", found)
    settle()
    assert widget.parameters.safe and primary(widget) == ["placeBoxButton"]
    path = tmp_path / "session.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(0)
    settle(200)
    click(widget.ui.bits4Button)
    choose(widget.ui.toleranceSelector, "Mean Dice at least .99")
    assert not widget.parameters.safe
    reader = slicer.vtkMRMLApplicationLogic()
    reader.SetMRMLScene(scene)
    (tmp_path / "unpacked").mkdir()
    assert reader.OpenSlicerDataBundle(str(path), str(tmp_path / "unpacked"))
    settle(250)
    shown = widget.panel.presenter.shown
    assert shown.safe and widget.parameters.safe
    assert shown.options.tolerance == "dice-95" and "Mean Dice .96" in shown.safe_found
    assert widget.ui.safeButton.property("chosen")
    assert not any(getattr(widget.ui, f"bits{bits}Button").checked for bits in (8, 4, 2))
    assert primary(widget) == ["placeBoxButton"]


def test_export_says_what_it_writes(widget, engine, tmp_path):
    choose_scan(widget)
    click(widget.ui.quantizeButton)
    engine.answer("quantize", QUANTIZED)
    widget.ui.exportSection.collapsed = False
    widget.ui.folderEdit.setText(str(tmp_path))
    widget.ui.formatSelector.setCurrentIndex(1)
    settle()
    assert "ONNX" in widget.ui.writesLabel.text
    click(widget.ui.exportButton)
    params = engine.last("export").params
    assert (params["format"], params["folder"], params["handle"]) == ("onnx", str(tmp_path), "q1")
    engine.answer("export", {"folder": str(tmp_path / "made")})
    settle()
    assert str(tmp_path / "made") in widget.panel.messages["export"].notice.text
    click(widget.ui.openExportedButton)
    assert ("open", str(tmp_path / "made")) in widget.host.calls


def test_choices_return_with_a_saved_session(widget, slicer, scene, tmp_path):
    volume = choose_scan(widget, "coronal")
    draw_box(volume)
    click(widget.ui.bits2Button)
    widget.parameters.method = type(widget.parameters.method).RTN
    path = tmp_path / "session.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(0)
    settle(200)
    click(widget.ui.bits8Button)
    assert widget.panel.presenter.shown.scan == ""
    reader = slicer.vtkMRMLApplicationLogic()
    reader.SetMRMLScene(scene)
    (tmp_path / "unpacked").mkdir()
    assert reader.OpenSlicerDataBundle(str(path), str(tmp_path / "unpacked"))
    settle(250)
    shown = widget.panel.presenter.shown
    assert widget.parameters.inputVolume.GetName() == "coronal scan"
    assert "16" in shown.scan
    assert (shown.bits, shown.options.method) == (2, "rtn")
    assert widget.ui.bits2Button.checked
    assert widget.ui.methodSelector.currentText == "Round to nearest (fastest)"
    assert [box.name for box in widget.host.boxes()] == ["liver"]
    assert widget.ui.boxList.topLevelItemCount == 1
