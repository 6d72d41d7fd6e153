"""The layers: views that are measured one after the other, and what is kept of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from presenter_fakes import CT, LIVER, Panel
from presenter_hands import STOPPED, cell, measured

VIEWS = ("proxy", "one-at-a-time", "incremental")


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    """A panel with a scan."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    return Panel().open_scan()


def agreement(one: str, other: str, spearman: float | None) -> dict:
    """As the engine tells it."""
    return {"views": [one, other], "bits": 2, "spearman": spearman, "rounding": "W2"}


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
