"""What comes after a cancel, and what was measured or made of one of two scans: never lost, never of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from MedQuantSlicerLib.host import Missing
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, Panel

OTHER = replace(CT, key="ct-2", name="other", digest="2f")
STOPPED = {"kind": "cancelled", "message": "Stopped."}
MASK = {"array": "late.npy", "labels": {"1": "liver"}, "bits": 4}
DIFFERENCE = {"array": "difference.npy", "labels": {}}


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    """A panel with a scan and a box on it."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    return Panel().open_scan().draw(LIVER)


def cell(layer: str, effect: float = 0.5, view: str = "proxy") -> dict:
    """As the engine tells it."""
    told = {"layer": layer, "kind": "Linear", "shape": [4, 8], "share": 0.5, "bits": 2, "effect": effect, "view": view}
    return told | ({} if view == "proxy" else {"dsc_loss": effect, "dsc": 1 - effect})


def measured(panel: Panel, *cells: dict) -> Panel:
    """The layers are measured to the end; two of them where nothing else is said."""
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("result", {"cells": cells or [cell("a"), cell("b", 0.2)], "agreement": []})
    return panel


def found(path: Path, safe: bool = True) -> dict:
    """What a search ends with."""
    path.touch()
    handle = str(path) if safe else ""
    told = {"safe": safe, "handle": handle, "found": "Dice .9", "bits": 0, "text": "2.0 MB", "pieces": 5}
    return {**told, "precise": []}


def result_of(work: str, path: Path) -> dict:
    """A whole answer of the engine."""
    return {
        "quantize": {**found(path), "bits": 4},
        "find_safe": found(path),
        "find_nothing_safe": found(path, safe=False),
        "find_sensitivity": {"cells": [cell("late")], "agreement": []},
        "segment": {"mask": MASK, "seconds_text": "1 s", "size_text": "2 MB"},
        "compare": {
            "table": {"columns": [], "tooltips": [], "rows": [], "headline": "late"},
            "worst": None,
            "difference": DIFFERENCE,
        },
    }[work]


WORKS = ("quantize", "find_safe", "find_nothing_safe", "find_sensitivity", "segment", "compare")


def begun(panel: Panel, work: str) -> Panel:
    """The work has reached the engine."""
    if work in ("segment", "compare"):
        panel.quantize()
    if work == "compare":
        panel.presenter.segment()
        panel.masks("fp32.npy").masks("w4.npy").compared()
    getattr(panel.presenter, work.replace("nothing_", ""))()
    return panel


def known_of(panel: Panel) -> tuple:
    """All that is known, and all that the scene holds."""
    facts = panel.presenter.facts
    results = dict(facts.made), dict(facts.masks), facts.table, facts.safe, panel.presenter.measured_layers()
    return *results, facts.notice, facts.problem, dict(panel.host.keeps)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("how", ["cancel", "other scan"])
def test_an_answer_after_a_cancel_is_a_cancel(panel: Panel, tmp_path: Path, work: str, how: str) -> None:
    begun(panel, work)
    request = panel.engine.last
    if how == "cancel":
        panel.presenter.cancel()
    else:
        panel.open_scan(OTHER)
    assert request.cancelled
    before, told = known_of(panel), result_of(work, tmp_path / "late.mq.safetensors")
    request.tell("result", told)
    assert known_of(panel) == before and panel.shown.state is State.IDLE and panel.shown.waiting is None
    arrays = [one["array"] for one in told.values() if isinstance(one, dict) and "array" in one]
    assert set(arrays) <= set(panel.engine.discarded)


def begun_that_lasts(panel: Panel, work: str) -> Panel:
    """Work that leaves something on the machine has reached the engine."""
    presenter = panel.presenter
    if work == "download":
        presenter.model_chosen("medsam")
    if work == "save_report":
        begun(panel, "compare").compared()
    if work == "export":
        panel.quantize()
    {
        "download": presenter.download,
        "add_weights": lambda: presenter.add_weights("/mine.pth"),
        "export": lambda: presenter.export("onnx", "/out"),
        "save_report": lambda: presenter.save_report("/out/report.html"),
    }[work]()
    return panel


LASTING = {
    "download": {"model": {"spec": "medsam", "title": "MedSAM", "task": "box", "present": True}},
    "add_weights": {"model": {"spec": "/mine.pth", "title": "mine", "task": "box", "present": True}},
    "export": {"folder": "/out/model", "text": ""},
    "save_report": {"path": "/out/report.html"},
}


@pytest.mark.parametrize("work", LASTING)
def test_what_is_done_is_done(panel: Panel, work: str) -> None:
    """A file that was written before the cancel was heard is there, and the panel says so."""
    begun_that_lasts(panel, work)
    before, chosen = panel.shown.notice, panel.shown.model
    panel.presenter.cancel()
    assert panel.engine.last.cancelled and panel.shown.waiting.cancelling
    panel.engine.last.tell("result", LASTING[work])
    shown, facts = panel.shown, panel.presenter.facts
    assert shown.state is State.IDLE and shown.waiting is None and shown.notice not in ("", before)
    if work == "export":
        assert shown.exported == "/out/model" and not panel.presenter.not_exported()
    if work in ("download", "add_weights"):
        assert facts.line_of(LASTING[work]["model"]["spec"]).present
    assert shown.model == chosen, "who cancelled wants nothing changed"


@pytest.mark.parametrize("work", LASTING)
def test_what_was_stopped_in_time_is_not_done(panel: Panel, work: str) -> None:
    begun_that_lasts(panel, work).presenter.cancel()
    before = known_of(panel)
    panel.engine.last.tell("error", STOPPED)
    assert known_of(panel) == before and panel.shown.exported == "" and panel.shown.state is State.IDLE


@pytest.mark.parametrize("work", WORKS)
def test_work_that_waits_for_an_installation_is_of_its_scan(panel: Panel, work: str) -> None:
    if work in ("segment", "compare"):
        panel.quantize()
    if work == "compare":
        panel.presenter.segment()
        panel.masks("fp32.npy").masks("w4.npy").compared()
    panel.host.lacks = Missing("Install?")
    asked = len(panel.engine.asked)
    getattr(panel.presenter, work.replace("nothing_", ""))()
    assert panel.shown.state is State.INSTALLING
    panel.open_scan(OTHER)
    panel.host.lacks = None
    panel.host.installing[1]()
    assert len(panel.engine.asked) == asked and panel.shown.state is State.IDLE
    assert "Another scan" in panel.shown.notice and panel.shown.notice_section, "the user is told why nothing happens"


@pytest.mark.parametrize("on_other", [Panel.quantize, measured], ids=["quantize", "measure"])
def test_a_map_is_there_again_after_work_on_another_scan(panel: Panel, on_other: Callable) -> None:
    heatmap = measured(panel).shown.heatmap
    on_other(panel.open_scan(OTHER))
    assert panel.open_scan().shown.heatmap == heatmap
    opened = Panel()
    opened.host.keeps = dict(panel.host.keeps)
    opened.presenter.choices_loaded()
    assert opened.open_scan(replace(CT, key="of another session")).shown.heatmap == heatmap


def test_measured_layers_are_of_a_scan_and_have_values(panel: Panel) -> None:
    measured(panel)
    here = panel.presenter.measured_layers()
    panel.open_scan(OTHER)
    assert panel.presenter.measured_layers() == here != frozenset(), "not saved yet, whichever scan is chosen"
    both = measured(panel).presenter.measured_layers()
    assert here < both and len(both) == 4
    assert measured(panel, cell("a"), cell("b", 0.3)).presenter.measured_layers() != both
    assert measured(panel).presenter.measured_layers() == both


@pytest.mark.parametrize("end", ["cancel", "memory", "not installed"])
@pytest.mark.parametrize("cells", [0, 1])
def test_a_complete_map_stays_where_the_next_one_does_not_end(panel: Panel, end: str, cells: int) -> None:
    measured(panel)
    heatmap, kept = panel.shown.heatmap, dict(panel.host.keeps)
    if end == "not installed":
        panel.host.lacks, panel.host.says_yes = Missing("Install?"), False
    panel.presenter.find_sensitivity()
    if end != "not installed":
        assert panel.shown.heatmap == heatmap, "until there is something to put in its place"
        for _ in range(cells):
            panel.engine.last.tell("partial", {"cell": cell("a", 0.9)})
            assert [one.effect for one in panel.shown.heatmap.cells] == [0.9] and not panel.shown.heatmap.complete
        if end == "cancel":
            panel.presenter.cancel()
        panel.engine.last.tell("error", STOPPED if end == "cancel" else {"kind": "memory", "message": "Too large."})
    assert panel.shown.heatmap == heatmap and panel.host.keeps == kept


def test_a_search_that_finds_nothing_on_one_scan_costs_the_other_nothing(panel: Panel, tmp_path: Path) -> None:
    panel.presenter.find_safe()
    panel.engine.last.tell("result", found(tmp_path / "safe.mq.safetensors"))
    told = panel.shown.safe_found
    panel.open_scan(OTHER).presenter.find_safe()
    panel.engine.last.tell("result", found(tmp_path / "none", safe=False))
    assert panel.shown.safe_found == ""
    assert panel.open_scan().shown.safe_found == told != ""


def test_each_scan_has_the_model_that_was_made_with_it(panel: Panel) -> None:
    panel.quantize("/exchange/of-first")
    panel.open_scan(OTHER).quantize("/exchange/of-second")
    assert panel.presenter.facts.quantized.handle.endswith("second") and panel.shown.quantized_fits
    panel.open_scan()
    assert panel.presenter.facts.quantized.handle.endswith("first") and panel.shown.quantized_fits
    panel.open_scan(replace(CT, key="ct-3", digest="3f"))
    assert panel.presenter.facts.quantized.handle.endswith("second") and not panel.shown.quantized_fits


def test_a_map_is_of_its_scales(panel: Panel) -> None:
    measured(panel)
    per_channel = panel.shown.heatmap
    panel.presenter.set_option("granularity", "per-tensor")
    assert panel.shown.heatmap is None
    panel.presenter.set_option("view", "one-at-a-time")
    measured(panel, cell("a", 0.7), cell("a", 0.1, "one-at-a-time"))
    panel.presenter.set_option("granularity", "per-channel")
    panel.presenter.set_option("view", "incremental")
    panel.presenter.find_sensitivity()
    assert panel.engine.last.params["known"] == [], "of other scales"
    panel.presenter.cancel()
    panel.engine.last.tell("error", STOPPED)
    panel.presenter.set_option("view", "proxy")
    assert panel.shown.heatmap == per_channel


def test_a_map_is_of_the_scan_wherever_that_lies(panel: Panel) -> None:
    """A transform above it moves the scan and changes nothing of what was measured; one that turns it does."""
    heatmap = measured(panel).shown.heatmap
    (x, *_others), *rows = CT.ijk_to_lps
    moved = ((x, *_others[:-1], 25.0), *rows)
    assert panel.open_scan(replace(CT, key="moved", ijk_to_lps=moved)).shown.heatmap == heatmap
    other = Panel()
    other.host.keeps = dict(panel.host.keeps)
    other.presenter.choices_loaded()
    assert other.open_scan().shown.heatmap == heatmap
    turned = ((0.0, 1.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0), *CT.ijk_to_lps[2:])
    assert panel.open_scan(replace(CT, key="turned", ijk_to_lps=turned)).shown.heatmap is None


def test_what_is_being_measured_is_shown_whatever_is_chosen(panel: Panel) -> None:
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("partial", {"cell": cell("a")})
    for option, value in (("what", "both"), ("view", "incremental"), ("granularity", "per-tensor")):
        panel.presenter.set_option(option, value)
        heatmap = panel.shown.heatmap
        assert (heatmap.view, heatmap.what, len(heatmap.cells)) == ("proxy", "weights", 1)
    panel.engine.last.tell("result", {"cells": [cell("a"), cell("b")], "agreement": []})
    assert panel.shown.heatmap is None, "what is chosen was not measured"


def test_a_model_that_is_chosen_while_another_is_measured_gets_none_of_its_cells(panel: Panel) -> None:
    panel.presenter.find_sensitivity()
    panel.presenter.model_chosen("embedded-nnunet")
    panel.engine.last.tell("result", {"cells": [cell("a")], "agreement": []})
    assert panel.shown.heatmap is None
    panel.presenter.model_chosen("embedded")
    assert len(panel.shown.heatmap.cells) == 1
