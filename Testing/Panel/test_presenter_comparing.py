"""The comparison: its table, titles and report, the reference, the worst slice and the difference."""

from __future__ import annotations

from dataclasses import replace

from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, SIZES, WORST, Panel


def test_what_was_measured_is_asked_for_again(panel: Panel) -> None:
    assert panel.shown.choices[1].accuracy == "small loss"
    measured = {**SIZES["choices"]["4"], "verdicts": {CT.digest: "masks as FP32"}}
    panel.engine.quick["sizes"] = {"choices": {**SIZES["choices"], "4": measured}}
    panel.compare_all()
    assert panel.shown.choices[1].accuracy == "masks as FP32"
    asked = next(one for one in panel.engine.asked if one.method == "compare")
    assert (asked.params["of"], asked.params["scan"]) == ("embedded", CT.digest), "what the verdict belongs to"


def test_a_verdict_belongs_to_its_scan(panel: Panel) -> None:
    panel.open_scan()
    here = panel.shown.choices
    assert (here[1].seconds, here[1].accuracy) == ("0.1 s a slice", "small loss")
    assert (here[0].seconds, here[0].accuracy) == ("", "not measured")
    panel.open_scan(replace(CT, key="ct-2", digest="2f"))
    told = panel.shown.choices[1]
    assert (told.size, told.seconds, told.accuracy) == ("2.5 MB", "\N{ALMOST EQUAL TO} 0.1 s a slice", "not measured")
    panel.open_scan(replace(CT, key="ct-3", digest=""))
    assert panel.shown.choices[1].accuracy == "not measured"
    assert panel.open_scan().shown.choices == here, "and is back with it"


def test_another_scan_forgets_the_masks_and_stops_what_runs(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.segment()
    running = panel.engine.last
    panel.open_scan(replace(CT, key="ct-2"))
    assert running.cancelled
    running.tell("error", {"kind": "cancelled", "message": "Stopped."})
    assert panel.shown.table is None
    assert panel.shown.left_title == ""
    assert not panel.action("compare").enabled


def test_a_report_names_the_model_that_made_the_masks(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.model_chosen("embedded-nnunet")
    panel.presenter.save_report("/report.html")
    asked = panel.engine.last.params
    assert (asked["of"], asked["title"]) == ("embedded", "Small promptable model")


def test_a_comparison_says_whose_it_is_where_another_model_is_chosen(panel: Panel) -> None:
    panel.compare_all()
    table = panel.shown.table
    assert panel.shown.table_of == ""
    for other in ("medsam", "embedded-nnunet"):
        panel.presenter.model_chosen(other)
        assert panel.shown.table is table and panel.shown.table_of == "Small promptable model"
    panel.presenter.model_chosen("embedded")
    assert panel.shown.table is table and panel.shown.table_of == ""
    panel.presenter.model_chosen("medsam")
    panel.open_scan(replace(CT, key="ct-2"))
    assert panel.shown.table is None and panel.shown.table_of == ""


def test_over_the_views_stands_what_is_drawn_in_them(panel: Panel) -> None:
    panel.compare_all()
    was = panel.host.over_views
    assert was == ("FP32  2.5 MB  1.02 s", "4-bit  2.5 MB  1.02 s", False)
    panel.presenter.bits_chosen(2)
    panel.quantize("/exchange/w2.mq.safetensors")
    panel.presenter.segment()
    assert panel.host.over_views == was, "the former masks are drawn"
    part = {"array": "part-1.npy", "offset": [3, 0, 0], "labels": {"1": "liver"}}
    panel.engine.last.tell("partial", {"masks": part})
    assert panel.host.over_views == (was[0], "2-bit", False)
    panel.presenter.cancel()
    panel.engine.last.tell("error", {"kind": "cancelled", "message": "Stopped."})
    assert panel.host.over_views == was
    panel.host.states[QUANTIZED] = "edited"
    panel.presenter.masks_changed()
    assert panel.host.over_views == (was[0], f"{was[1]}  edited", False)
    panel.host.states[FP32] = ""
    panel.presenter.masks_changed()
    assert panel.host.over_views == ("", f"{was[1]}  edited", False), "they were deleted"
    panel.open_scan(replace(CT, key="ct-2"))
    assert panel.host.over_views == ("", "", False)


def test_the_same_scan_chosen_again_changes_nothing(panel: Panel) -> None:
    panel.compare_all()
    panel.open_scan()
    assert panel.shown.table is not None


def test_a_closed_scene_is_an_empty_panel(panel: Panel) -> None:
    panel.compare_all()
    panel.host.chosen, panel.host.drawn = None, []
    panel.presenter.scene_closed()
    assert panel.shown.state is State.NO_VOLUME
    assert panel.shown.table is None and panel.shown.scan == "" and panel.shown.boxes == "no box"


def test_a_reference_is_compared_with_as_soon_as_it_is_chosen(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.reference_chosen("manual")
    assert panel.shown.state is State.COMPARING
    reference = panel.engine.last.params["reference"]
    assert reference["labels"] == {"1": "liver"}
    assert panel.host.did("write_reference") == [("write_reference", f"/exchange/{reference['array']}")]
    panel.compared()
    assert reference["array"] in panel.engine.discarded
    panel.presenter.reference_chosen("")
    assert "reference" not in panel.engine.last.params


def test_a_reference_of_another_grid_is_a_problem_of_the_comparison(panel: Panel) -> None:
    panel.compare_all()
    panel.host.reference = "The reference lies elsewhere. Choose another."
    panel.presenter.reference_chosen("far away")
    assert panel.shown.state is State.FAILED
    assert panel.shown.problem.section == "compare"
    assert panel.shown.problem.text == "The reference lies elsewhere. Choose another."
    assert panel.shown.table is not None


def test_jumping_to_the_slice_that_differs_most(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.jump_to_worst()
    assert panel.host.calls[-1] == ("jump_to", (1.0, 2.0, 3.0))
    assert panel.shown.worst == WORST["text"]


def test_masks_that_are_the_same_have_no_worst_slice(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.segment()
    panel.masks("a.npy").masks("b.npy").compared(worst=None)
    assert not panel.action("jump_to_worst").enabled
    assert panel.shown.worst == ""
    assert "fewer bits" in panel.shown.hint
    panel.presenter.jump_to_worst()
    assert not panel.host.did("jump_to")


def test_the_difference_comes_and_goes(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.difference()
    assert panel.shown.difference_shown
    assert panel.host.calls[-1] == ("show_masks", DIFFERENCE, "difference.npy", False)
    assert panel.action("difference").text == "Hide difference"
    panel.presenter.difference()
    assert panel.host.calls[-1] == ("remove_masks", DIFFERENCE)


def test_new_masks_take_the_old_difference_away(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.difference()
    panel.presenter.segment()
    panel.masks("again.npy")
    assert ("remove_masks", DIFFERENCE) in panel.host.calls
    assert not panel.shown.difference_shown


def test_the_report_goes_where_it_was_wished(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.save_report("/home/report.html")
    asked = panel.engine.last
    assert (asked.method, asked.params["path"]) == ("report", "/home/report.html")
    assert asked.params["handle"] == "/exchange/w4.mq.safetensors"
    asked.tell("result", {"path": "/home/report.html"})
    assert panel.shown.notice == "Saved: /home/report.html"
    assert panel.shown.table is not None
