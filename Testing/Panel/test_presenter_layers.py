"""The layers: views that are measured one after the other, what is kept of them, and the smallest safe model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, Panel

VIEWS = ("proxy", "one-at-a-time", "incremental")
FOUND = {
    "safe": True,
    "found": "Dice .993 on held-out slices",
    "bits": 0,
    "text": "2.0 MB, 3.2 bits/weight (15 MB in FP32)",
    "pieces": 5,
    "precise": ["a", "b"],
}
STOPPED = {"kind": "cancelled", "message": "Stopped."}


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    """A panel with a scan."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    return Panel().open_scan()


def cell(layer: str, bits: int, effect: float, view: str = "proxy", loss: float | None = None) -> dict:
    """As the engine tells it."""
    told = {"layer": layer, "kind": "Linear", "shape": [4, 8], "share": 0.5, "bits": bits, "effect": effect}
    return {**told, "view": view, "dsc_loss": loss, "dsc": None if loss is None else 1 - loss}


def histograms(layer: str) -> dict:
    """Of one layer."""
    weights = {"minimum": -1.0, "maximum": 1.5, "counts": [1, 2]}
    return {"layer": layer, "weights": weights, "inputs": {**weights, "counts": [3, 4]}}


def measured(panel: Panel, view: str, **result: object) -> None:
    """A view is chosen and measured to its end."""
    panel.presenter.set_option("view", view)
    panel.presenter.find_sensitivity()
    cells = [cell(layer, 2, effect) for layer, effect in (("a", 0.5), ("b", 0.2))]
    if view != "proxy":
        cells += [cell("a", 2, 0.3, view, 0.01), cell("b", 2, 0.1, view, 0.04)]
    panel.engine.last.tell("partial", {"histograms": [histograms("a"), histograms("b")]})
    panel.engine.last.tell("result", {"cells": cells, "agreement": [], **result})


def agreement(one: str, other: str, spearman: float | None) -> dict:
    """As the engine tells it."""
    return {"views": [one, other], "bits": 2, "spearman": spearman, "rounding": "W2"}


def safe(panel: Panel, path: Path, **more: object) -> None:
    """The search is pressed and ends."""
    path.touch()
    panel.presenter.find_safe()
    panel.engine.last.tell("result", {**FOUND, "handle": str(path), **more})


# -- views


def test_each_view_is_measured_and_shown_for_itself(panel: Panel) -> None:
    measured(panel, "proxy")
    assert panel.engine.last.params["views"] == ("proxy",)
    assert panel.shown.heatmap.view == "proxy" and panel.shown.heatmap.worst == ("a", "b")
    panel.presenter.set_option("view", "one-at-a-time")
    assert panel.shown.heatmap is None, "not measured yet"
    measured(panel, "one-at-a-time")
    assert panel.engine.last.params["views"] == ("proxy", "one-at-a-time"), "the quick estimate comes along"
    heatmap = panel.shown.heatmap
    assert heatmap.view == "one-at-a-time" and heatmap.complete
    assert heatmap.worst == ("b", "a"), "by what the masks lose"
    assert [one.harm for one in heatmap.cells] == [0.01, 0.04]
    panel.presenter.set_option("what", "activations")
    assert panel.shown.heatmap is None
    panel.presenter.set_option("what", "weights")
    panel.presenter.set_option("view", "proxy")
    assert [one.harm for one in panel.shown.heatmap.cells] == [0.5, 0.2]


def test_until_masks_are_measured_the_quick_estimate_is_shown(panel: Panel) -> None:
    panel.presenter.set_option("view", "one-at-a-time")
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("partial", {"cell": cell("a", 2, 0.5)})
    assert panel.shown.heatmap.view == "proxy"
    panel.engine.last.tell("partial", {"cell": cell("a", 2, 0.3, "one-at-a-time", 0.01)})
    assert panel.shown.heatmap.view == "one-at-a-time" and not panel.shown.heatmap.complete
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("error", STOPPED)
    assert len(panel.shown.heatmap.cells) == 1 and not panel.shown.heatmap.complete


def test_views_that_were_measured_before_are_told_to_the_engine(panel: Panel) -> None:
    measured(panel, "one-at-a-time")
    panel.presenter.set_option("view", "incremental")
    panel.presenter.find_sensitivity()
    (known,) = panel.engine.last.params["known"]
    assert (known["view"], known["what"]) == ("one-at-a-time", "weights")
    assert [one["layer"] for one in known["cells"]] == [one["name"] for one in known["layers"]] == ["a", "b"]
    json.dumps(known, allow_nan=False)
    panel.engine.last.tell("error", STOPPED)
    panel.presenter.set_option("what", "both")
    panel.presenter.find_sensitivity()
    assert panel.engine.last.params["known"] == [], "of another rounding"


def test_a_view_that_was_stopped_ranks_nothing(panel: Panel) -> None:
    """Agreement with the few layers that were measured would say nothing of the others."""
    panel.presenter.set_option("view", "one-at-a-time")
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("partial", {"cell": cell("a", 2, 0.3, "one-at-a-time", 0.01)})
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("error", STOPPED)
    assert len(panel.shown.heatmap.cells) == 1
    panel.presenter.set_option("view", "incremental")
    panel.presenter.find_sensitivity()
    assert panel.engine.last.params["known"] == []


def held_against(panel: Panel, view: str, **more: object) -> None:
    """A view that was measured with a reference and, where layers are spared, by types."""
    told = {**cell("a", 2, 0.3, view, 0.01), "reference_loss": -0.02}
    kind = {**cell("Linear MLP", 2, 0.4, view, 0.25), "share": 0.75, "reference_loss": 0.125}
    types = [kind] if view == "incremental" else []
    result = {"cells": [cell("a", 2, 0.5), told], "types": types, "fp32_vs_reference": 0.784, "agreement": [], **more}
    panel.presenter.set_option("view", view)
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("result", result)


def test_masks_are_held_against_the_reference_that_is_chosen(panel: Panel) -> None:
    measured(panel, "one-at-a-time")
    assert "reference" not in panel.engine.last.params and panel.shown.heatmap.against == ""
    panel.presenter.reference_chosen("Expert")
    measured(panel, "proxy")
    assert "reference" not in panel.engine.last.params, "a quick estimate looks at no masks"
    held_against(panel, "one-at-a-time")
    assert panel.engine.last.params["reference"]["labels"] == {"1": "liver"}
    assert "Expert" in panel.shown.heatmap.against and ".784" in panel.shown.heatmap.against
    panel.presenter.layer_chosen("a")
    assert "\N{MINUS SIGN}.020 at 2\N{NO-BREAK SPACE}bits" in panel.shown.layer.text
    panel.presenter.reference_chosen("")
    assert "Expert" in panel.shown.heatmap.against, "what was measured stays what it was"
    panel.presenter.set_option("view", "proxy")
    assert panel.shown.heatmap.against == ""
    panel.presenter.layer_chosen("a")
    assert "reference" not in panel.shown.layer.text


def test_types_of_layers_are_shown_with_the_layers_that_were_spared(panel: Panel) -> None:
    panel.presenter.reference_chosen("Expert")
    held_against(panel, "incremental")
    types = panel.shown.heatmap.types
    assert [(one.name, one.share) for one in types.layers] == [("Linear MLP", 0.75)]
    assert [(one.layer, one.bits, one.harm, one.reference_loss) for one in types.cells] == [
        ("Linear MLP", 2, 0.25, 0.125)
    ]
    assert panel.shown.heatmap.largest == 0.25, "types and layers have the same colours"
    panel.presenter.set_option("view", "proxy")
    assert panel.shown.heatmap.types is None
    measured(panel, "one-at-a-time", types=[])
    assert panel.shown.heatmap.types is None


def test_the_report_gets_types_the_reference_and_the_other_views(panel: Panel, tmp_path: Path) -> None:
    panel.presenter.reference_chosen("Expert")
    panel.quantize(str(tmp_path / "w4")).draw(LIVER)
    panel.presenter.segment()
    panel.masks("fp32.npy").masks("w4.npy").compared()
    held_against(panel, "incremental")
    panel.presenter.save_report("report.html")
    told = panel.engine.last.params["sensitivity"]
    json.dumps(told, allow_nan=False)
    assert (told["view"], told["fp32_vs_reference"]) == ("incremental", 0.784)
    assert [(one["layer"], one["share"]) for one in told["types"]] == [("Linear MLP", 0.75)]
    assert [one["reference_loss"] for one in told["cells"]] == [-0.02]
    assert [other["view"] for other in told["others"]] == ["proxy"]


def test_agreement_of_views_is_told_in_a_line(panel: Panel) -> None:
    told = [agreement("proxy", "one-at-a-time", -0.2), agreement("proxy", "proxy", 1.0)]
    measured(panel, "one-at-a-time", agreement=[*told, agreement("one-at-a-time", "incremental", None)])
    (line,) = panel.shown.heatmap.agreement
    assert "the quick estimate: \N{MINUS SIGN}.20 at 2\N{NO-BREAK SPACE}bits" in line
    panel.presenter.set_option("view", "proxy")
    assert "one at a time" in panel.shown.heatmap.agreement[0]
    measured(panel, "proxy")
    assert panel.shown.heatmap.agreement == (), "measured anew, it is not known"


def test_a_layer_that_is_clicked_has_its_numbers_and_histograms(panel: Panel) -> None:
    measured(panel, "one-at-a-time")
    panel.presenter.layer_chosen("b")
    layer = panel.shown.layer
    assert "b: Linear" in layer.text
    assert "Dice against FP32 with it alone rounded: .960 at 2\N{NO-BREAK SPACE}bits" in layer.text
    assert layer.weights.counts == (1, 2) and layer.inputs.counts == (3, 4) and layer.weights.maximum == 1.5
    panel.presenter.set_option("view", "incremental")
    assert panel.shown.layer is None, "of a view that is not measured"


def test_all_of_it_comes_back_with_the_scene_and_goes_with_the_scan(panel: Panel) -> None:
    measured(panel, "one-at-a-time", agreement=[agreement("proxy", "one-at-a-time", 0.5)])
    panel.presenter.layer_chosen("a")
    before = panel.shown
    other = Panel()
    other.host.keeps = dict(panel.host.keeps)
    other.presenter.set_option("view", "one-at-a-time")
    other.presenter.choices_loaded()
    other.open_scan()
    other.presenter.layer_chosen("a")
    assert other.shown.heatmap == before.heatmap and other.shown.layer == before.layer
    other.presenter.set_option("view", "proxy")
    assert other.shown.heatmap.complete
    other.open_scan(replace(CT, key="ct-2", name="other", digest="2f"))
    assert other.shown.heatmap is None and other.shown.layer is None
    other.open_scan()
    assert other.shown.heatmap is not None


def test_the_report_gets_the_map_that_is_shown(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.segment()
    panel.masks("fp32.npy").masks("w4.npy").compared()
    panel.presenter.save_report("/r.html")
    assert panel.engine.last.params["sensitivity"] is None
    panel.engine.last.tell("error", STOPPED)
    measured(panel, "one-at-a-time")
    panel.presenter.save_report("/r.html")
    told = panel.engine.last.params["sensitivity"]
    assert told["view"] == "one-at-a-time" and [one["dsc_loss"] for one in told["cells"]] == [0.01, 0.04]


# -- the smallest safe model


@pytest.mark.parametrize(
    ("tolerance", "asked"),
    [("dice-99", {"dsc": 0.99}), ("dice-95", {"dsc": 0.95}), ("volume-1", {"dsc": 0.95, "volume_change": 0.01})],
)
def test_the_search_asks_for_what_was_chosen(panel: Panel, tolerance: str, asked: dict) -> None:
    panel.presenter.set_option("tolerance", tolerance)
    panel.presenter.set_option("method", "rtn")
    panel.presenter.keep_precise("a", 8)
    panel.presenter.keep_precise("b", 32)
    panel.presenter.find_safe()
    params = panel.engine.last.params
    assert panel.engine.last.method == "find_safe" and panel.shown.state is State.SEARCHING
    assert params["tolerance"] == asked and params["method"] == "rtn" and params["slices"]["count"] == 8
    assert params["overrides"] == {"b": 32}, "the search chooses the bits of all other layers"
    assert "volume" in params and "bits" not in params


def test_what_was_found_is_the_quantized_model(panel: Panel, tmp_path: Path) -> None:
    panel.draw(LIVER)
    safe(panel, tmp_path / "safe.mq.safetensors")
    shown = panel.shown
    assert shown.safe and shown.quantized_fits and not any(choice.chosen for choice in shown.choices)
    assert shown.safe_found.splitlines() == [FOUND["text"], FOUND["found"]] and shown.safe_precise == ("a", "b")
    assert panel.primary() == ["segment"]
    assert panel.action("find_safe").text == "Smallest safe model: 2.0 MB"
    panel.presenter.segment()
    panel.masks("fp32.npy")
    assert panel.engine.last.params["model"].endswith("safe.mq.safetensors")
    panel.masks("w.npy").compared()
    assert panel.shown.right_title.startswith("2 to 8 bits")
    assert panel.action("export").text == "Export 2 to 8 bits..."
    panel.presenter.export("onnx", "/out")
    assert panel.engine.last.params["handle"].endswith("safe.mq.safetensors")


def test_bits_and_the_safe_model_are_chosen_in_turn(panel: Panel, tmp_path: Path) -> None:
    panel.quantize(str(tmp_path / "w4.mq.safetensors"))
    safe(panel, tmp_path / "safe.mq.safetensors")
    asked = len(panel.engine.asked)
    panel.presenter.bits_chosen(4)
    assert not panel.shown.safe and panel.shown.quantized.startswith("4-bit") and panel.shown.quantized_fits
    assert panel.action("find_safe").text == messages.USE_SAFE
    panel.presenter.find_safe()
    assert panel.shown.safe and len(panel.engine.asked) == asked, "it was found already"
    panel.presenter.find_safe()
    assert panel.engine.last.method == "find_safe", "pressed again, it is looked for once more"
    panel.engine.last.tell("error", STOPPED)
    assert panel.shown.safe and panel.shown.quantized_fits, "what was there stays"
    panel.presenter.quantize()
    assert panel.engine.last.method == "quantize" and panel.engine.last.params["bits"] == 4
    panel.engine.last.tell("error", STOPPED)
    assert panel.shown.safe and panel.shown.quantized_fits, "still"
    panel.quantize(str(tmp_path / "w4.mq.safetensors"))
    assert not panel.shown.safe and panel.shown.quantized.startswith("4-bit")


@pytest.mark.parametrize("verb", ["quantize", "find_safe"])
def test_bits_that_are_clicked_while_it_works_stay_chosen(panel: Panel, tmp_path: Path, verb: str) -> None:
    getattr(panel.presenter, verb)()
    panel.presenter.bits_chosen(8)
    (tmp_path / "made.mq.safetensors").touch()
    panel.engine.last.tell("result", {**FOUND, "handle": str(tmp_path / "made.mq.safetensors"), "bits": 4})
    assert (panel.shown.safe, panel.shown.bits) == (False, 8) and not panel.shown.quantized_fits


def test_what_is_exported_is_what_the_section_above_shows(panel: Panel, tmp_path: Path) -> None:
    safe(panel, tmp_path / "safe.mq.safetensors")
    panel.presenter.bits_chosen(4)
    assert panel.shown.quantized == "" and not panel.action("export").enabled
    panel.quantize(str(tmp_path / "w4.mq.safetensors"))
    assert panel.action("export").text == "Export 4-bit..."
    panel.presenter.find_safe()
    assert panel.action("export").text == "Export 2 to 8 bits..."
    panel.presenter.keep_precise("a", 32)
    assert panel.shown.safe_found == "" and not panel.action("export").enabled


def test_where_nothing_is_safe_it_says_so_and_chooses_nothing(panel: Panel, tmp_path: Path) -> None:
    safe(panel, tmp_path / "none", safe=False, handle="")
    assert not panel.shown.safe and not panel.shown.quantized_fits
    assert "Nothing smaller is safe" in panel.shown.notice and "keeps mean Dice at least .99" in panel.shown.notice
    assert FOUND["found"] in panel.shown.notice and panel.shown.notice_section == "quantize"
    assert panel.primary() == ["quantize"]


def test_what_was_not_asked_and_is_worse_is_not_called_safe(panel: Panel, tmp_path: Path) -> None:
    panel.draw(LIVER)
    panel.presenter.find_safe()
    (tmp_path / "safe").touch()
    panel.engine.last.tell("result", {**FOUND, "handle": str(tmp_path / "safe"), "uneven": True})
    assert panel.action("find_safe").text == "Keeps what was asked: 2.0 MB"
    assert "clearly worse" in panel.shown.safe_found.splitlines()[-1]
    kept = panel.host.keeps
    other = Panel()
    other.host.keeps = kept
    other.open_scan().presenter.choices_loaded()
    assert other.shown.safe_found == panel.shown.safe_found, "a session keeps it"


def test_a_safe_model_belongs_to_its_scan_model_and_tolerance(panel: Panel, tmp_path: Path) -> None:
    safe(panel, tmp_path / "safe.mq.safetensors")
    panel.presenter.set_option("tolerance", "dice-95")
    assert panel.shown.safe_found == "" and panel.primary() == ["find_safe"]
    panel.presenter.set_option("tolerance", "dice-99")
    assert panel.shown.safe_found
    panel.open_scan(replace(CT, key="ct-2", digest="2f"))
    assert panel.shown.safe_found == "" and not panel.shown.quantized_fits and panel.primary() == ["find_safe"]
    panel.open_scan()
    assert panel.shown.safe_found and panel.shown.quantized_fits
    panel.presenter.model_chosen("embedded-nnunet")
    assert not panel.shown.safe and panel.primary() == ["quantize"]


def test_an_answer_about_a_former_scan_is_not_chosen_for_another(panel: Panel, tmp_path: Path) -> None:
    panel.presenter.find_safe()
    asked = panel.engine.last
    panel.open_scan(replace(CT, key="ct-2", digest="2f"))
    assert asked.cancelled
    (tmp_path / "late.mq.safetensors").touch()
    asked.tell("result", {**FOUND, "handle": str(tmp_path / "late.mq.safetensors")})
    assert not panel.shown.safe and panel.shown.safe_found == ""


def test_a_safe_model_comes_back_with_the_scene(panel: Panel, tmp_path: Path) -> None:
    safe(panel, tmp_path / "safe.mq.safetensors")
    other = Panel()
    other.host.keeps = dict(panel.host.keeps)
    other.presenter.safe_chosen(True)
    other.presenter.choices_loaded()
    other.open_scan()
    assert other.shown.safe and other.shown.quantized_fits
    assert (other.shown.safe_found, other.shown.safe_precise) == (panel.shown.safe_found, panel.shown.safe_precise)


def test_layers_that_it_keeps_precise_are_marked(panel: Panel, tmp_path: Path) -> None:
    measured(panel, "proxy")
    safe(panel, tmp_path / "safe.mq.safetensors", precise=["b"])
    assert [one.precise for one in panel.shown.heatmap.layers] == [False, True]
    panel.presenter.bits_chosen(4)
    assert not any(one.precise for one in panel.shown.heatmap.layers)


@pytest.mark.parametrize("dice", [0.0, 0.0004, 0.9, 0.99349, 0.9994, 0.9996, 1.0])
def test_panel_and_engine_write_a_dice_alike(dice: float) -> None:
    from medquant.evaluation import wording

    assert messages.score(dice) == wording.score(dice)
