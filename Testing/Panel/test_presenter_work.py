"""What each verb asks of the engine and of the application, and what becomes of the answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, SIZES, WORST, Panel


@pytest.fixture
def panel() -> Panel:
    """A panel with a scan."""
    return Panel().open_scan()


def test_quantizing_asks_for_what_was_chosen(panel: Panel) -> None:
    panel.presenter.bits_chosen(2)
    for name, value in (("method", "rtn"), ("slices", 12), ("where", "range"), ("first", 3), ("last", 9)):
        panel.presenter.set_option(name, value)
    panel.presenter.quantize()
    asked = panel.engine.last.params
    assert (asked["model"], asked["bits"], asked["method"]) == ("embedded", 2, "rtn")
    assert asked["slices"] == {"count": 12, "where": "range", "first": 3, "last": 9}
    assert asked["volume"]["array"] == "volume-1.npy"
    assert asked["volume"]["ijk_to_lps"] == CT.ijk_to_lps


@pytest.mark.parametrize(
    ("name", "value"), [("method", "magic"), ("slices", 0), ("slices", "8"), ("nothing", 1), ("first", -1)]
)
def test_an_option_that_is_not_allowed_is_ignored(panel: Panel, name: str, value: object) -> None:
    before = panel.shown.options
    panel.presenter.set_option(name, value)
    assert panel.shown.options == before


def test_the_scan_is_handed_over_once(panel: Panel) -> None:
    panel.compare_all()
    assert len(panel.host.did("write_volume")) == 1
    panel.open_scan(replace(CT, key="ct-2"))
    assert "volume-1.npy" not in panel.engine.discarded
    panel.presenter.quantize()
    assert len(panel.host.did("write_volume")) == 2
    assert "volume-1.npy" in panel.engine.discarded


def test_a_quantized_model_fits_its_own_choices(panel: Panel) -> None:
    panel.quantize()
    assert panel.shown.quantized.startswith("4-bit: 2.5 MB")
    assert panel.shown.quantized_fits
    panel.presenter.bits_chosen(2)
    assert not panel.shown.quantized_fits
    assert panel.shown.quantized.startswith("4-bit")
    panel.presenter.bits_chosen(4)
    assert panel.shown.quantized_fits
    panel.presenter.set_option("granularity", "per-tensor")
    assert not panel.shown.quantized_fits


def test_segmenting_runs_both_models_then_compares(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.segment()
    asked = panel.engine.last.params
    assert (asked["model"], asked["of"]) == ("embedded", "embedded")
    assert asked["boxes"] == [{"name": "liver", "corners": LIVER.corners, "label": 1}]
    panel.engine.last.tell("progress", {"fraction": 0.5, "text": "Slice 3 of 6"})
    assert panel.shown.waiting.text == "FP32 (1 of 2): Slice 3 of 6"
    assert panel.shown.waiting.fraction == 0.25
    panel.masks("fp32.npy")
    assert panel.shown.state is State.SEGMENTING
    assert panel.shown.waiting.fraction == 0.5, "the bar does not fall back"
    assert panel.shown.waiting.text.startswith("4-bit (2 of 2): ")
    assert panel.engine.last.params["model"] == "/exchange/w4.mq.safetensors"
    panel.masks("w4.npy")
    assert panel.shown.state is State.COMPARING
    assert panel.engine.last.params["fp32"]["array"] == "fp32.npy"
    assert panel.engine.last.params["quantized"]["array"] == "w4.npy"
    panel.compared()
    assert panel.shown.state is State.IDLE
    assert panel.shown.table.headline == "Dice .994"
    assert panel.shown.table.rows[0].cells[0].strong
    assert panel.shown.left_title == "FP32  2.5 MB  1.02 s"
    assert panel.host.did("show_pair")
    assert panel.host.over_views == (panel.shown.left_title, panel.shown.right_title, False)


def test_what_was_measured_is_asked_for_again(panel: Panel) -> None:
    assert panel.shown.choices[1].accuracy == "small loss"
    measured = {**SIZES["choices"]["4"], "accuracy": "masks as FP32"}
    panel.engine.quick["sizes"] = {"choices": {**SIZES["choices"], "4": measured}}
    panel.compare_all()
    assert panel.shown.choices[1].accuracy == "masks as FP32"


def test_masks_appear_as_they_come(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.segment()
    part = {"array": "part-1.npy", "offset": [3, 0, 0], "labels": {"1": "liver"}}
    panel.engine.last.tell("partial", {"masks": part})
    assert panel.host.did("show_masks") == [("show_masks", FP32, "part-1.npy", True)]
    assert "part-1.npy" in panel.engine.discarded
    panel.masks("fp32.npy")
    assert panel.host.did("show_masks")[-1] == ("show_masks", FP32, "fp32.npy", False)


def test_cancelling_puts_the_former_masks_back(panel: Panel) -> None:
    panel.compare_all()
    panel.draw(replace(LIVER, corners=((0.0, 0.0, 0.0), (9.0, 9.0, 9.0))))
    panel.presenter.segment()
    part = {"array": "part-1.npy", "offset": [3, 0, 0], "labels": {"1": "liver"}}
    panel.engine.last.tell("partial", {"masks": part})
    panel.presenter.cancel()
    panel.engine.last.tell("error", {"kind": "cancelled", "message": "Stopped."})
    assert panel.host.calls[-1] == ("put_back", FP32)
    assert panel.shown.table is not None


def test_failing_without_former_masks_takes_the_begun_ones_away(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.segment()
    part = {"array": "part-1.npy", "offset": [3, 0, 0], "labels": {"1": "liver"}}
    panel.engine.last.tell("partial", {"masks": part})
    panel.engine.last.tell("error", {"kind": "memory", "message": "Too large. Cut it."})
    assert panel.host.calls[-1] == ("put_back", FP32)
    assert panel.shown.problem.kind == "memory"


def test_masks_that_are_there_are_not_computed_again(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.bits_chosen(2)
    panel.quantize("/exchange/w2.mq.safetensors")
    asked = len(panel.engine.asked)
    panel.presenter.segment()
    assert [one.params["model"] for one in panel.engine.asked[asked:]] == ["/exchange/w2.mq.safetensors"]
    panel.masks("w2.npy").compared()
    assert "w4.npy" in panel.engine.discarded
    assert panel.engine.last.params["fp32"]["array"] == "fp32.npy"


def test_pressing_again_computes_all_again(panel: Panel) -> None:
    panel.compare_all()
    asked = len(panel.engine.asked)
    panel.presenter.segment()
    panel.masks("fp32-2.npy").masks("w4-2.npy").compared()
    assert [one.method for one in panel.engine.asked[asked:]] == ["segment", "segment", "compare"]


@pytest.mark.parametrize(("run", "kind"), [("fp32", FP32), ("quantized", QUANTIZED)])
def test_one_of_the_models_can_be_run_alone(panel: Panel, run: str, kind: str) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.set_option("run", run)
    panel.presenter.segment()
    panel.masks("one.npy")
    assert panel.shown.state is State.IDLE
    assert panel.host.did("show_masks")[-1][1] == kind
    assert not panel.action("compare").enabled


def test_fp32_alone_needs_no_quantized_model(panel: Panel) -> None:
    panel.draw(LIVER)
    assert not panel.action("segment").enabled
    panel.presenter.set_option("run", "fp32")
    assert panel.action("segment").enabled
    assert panel.primary() == ["segment"]


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


def test_a_model_that_was_calibrated_on_another_scan_is_said_to_be(panel: Panel) -> None:
    panel.quantize()
    assert panel.shown.quantized == "4-bit: 2.5 MB, calibrated on 8 pieces of this scan"
    panel.open_scan(replace(CT, key="ct-2", digest="2f")).draw(LIVER)
    assert panel.shown.quantized == "4-bit: 2.5 MB, calibrated on another scan"
    assert not panel.shown.quantized_fits
    assert panel.primary() == ["quantize"] and "another scan" in panel.action("quantize").tooltip
    panel.presenter.segment()
    panel.masks("fp32.npy").masks("w4.npy")
    asked = panel.engine.last.params
    assert (asked["handle"], asked["calibrated_here"]) == ("/exchange/w4.mq.safetensors", False)
    panel.compared().presenter.save_report("/report.html")
    assert panel.engine.last.params["calibrated_here"] is False
    panel.engine.last.tell("result", {"path": "/report.html"})
    panel.presenter.quantize()
    assert not panel.engine.last.params["again"], "it was not made of this scan yet"
    panel.engine.last.tell("error", {"kind": "cancelled", "message": "Stopped."})
    panel.open_scan(replace(CT, key="moved")).draw(LIVER)
    assert panel.shown.quantized_fits and panel.primary() == ["segment"]
    panel.quantize("/exchange/w4.mq.safetensors")
    panel.presenter.segment()
    panel.masks("fp32.npy").masks("w4.npy")
    assert panel.engine.last.params["calibrated_here"] is True


def test_a_report_names_the_model_that_made_the_masks(panel: Panel) -> None:
    panel.compare_all()
    panel.presenter.model_chosen("embedded-nnunet")
    panel.presenter.save_report("/report.html")
    asked = panel.engine.last.params
    assert (asked["of"], asked["title"]) == ("embedded", "Small promptable model")


def test_export_names_what_it_writes(panel: Panel) -> None:
    assert panel.action("export").text == "Export..."
    panel.quantize()
    panel.presenter.bits_chosen(2)
    assert panel.action("export").text == "Export 4-bit...", "the one that was made last"
    panel.quantize("/exchange/w2.mq.safetensors")
    assert panel.action("export").text == "Export 2-bit..."


def test_what_is_chosen_while_it_segments_changes_nothing_of_it(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.bits_chosen(8)
    panel.quantize("/exchange/w8.mq.safetensors")
    panel.presenter.bits_chosen(4)
    panel.presenter.segment()
    panel.presenter.bits_chosen(8)
    panel.presenter.model_chosen("embedded-nnunet")
    panel.draw().presenter.set_option("runtime", "pytorch")
    panel.masks("fp32.npy")
    asked = panel.engine.last.params
    assert (asked["model"], asked["of"], asked["runtime"]) == ("/exchange/w4.mq.safetensors", "embedded", "auto")
    assert len(asked["boxes"]) == 1
    panel.masks("w4.npy").compared()
    assert panel.shown.right_title.startswith("4-bit")
    assert panel.shown.table.headline == "Dice .994"
    panel.draw(LIVER).presenter.model_chosen("embedded")
    panel.presenter.set_option("runtime", "auto")
    assert panel.primary() == ["segment"], "the masks of 8 bits are still to come"
    panel.presenter.bits_chosen(4)
    assert panel.primary() == ["jump_to_worst"]


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


def test_an_answer_about_a_former_scan_is_not_shown(panel: Panel) -> None:
    panel.quantize().draw(LIVER)
    panel.presenter.segment()
    running = panel.engine.last
    panel.open_scan(replace(CT, key="ct-2"))
    mask = {"array": "late.npy", "labels": {"1": "liver"}, "bits": 32}
    running.tell("result", {"mask": mask, "seconds_text": "1 s", "size_text": ""})
    assert ("show_masks", FP32, "late.npy", False) not in panel.host.calls
    assert panel.shown.left_title == ""
    assert panel.shown.state is State.IDLE
    assert "late.npy" in panel.engine.discarded


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


def _cell(layer: str, bits: int, effect: float) -> dict:
    return {"layer": layer, "kind": "Linear", "shape": [4, 8], "share": 0.5, "bits": bits, "effect": effect}


def test_the_heatmap_fills_cell_by_cell(panel: Panel) -> None:
    panel.presenter.find_sensitivity()
    assert panel.engine.last.params["bits"] == [2, 4, 8]
    panel.engine.last.tell("partial", {"cell": _cell("blocks.0.lin1", 2, 0.1)})
    assert not panel.shown.heatmap.complete
    assert panel.shown.heatmap.layers[0].block == "blocks.0"
    cells = [_cell(f"blocks.{n}.lin{m}", bits, n / bits) for bits in (2, 8) for n in range(4) for m in (1, 2)]
    panel.engine.last.tell("result", {"layers": [], "bits": [2, 8], "cells": cells, "worst": []})
    heatmap = panel.shown.heatmap
    assert heatmap.complete and heatmap.bits == (8, 2)
    assert len(heatmap.cells) == 16 and len(heatmap.layers) == 8
    assert heatmap.worst[:2] == ("blocks.3.lin1", "blocks.3.lin2")


def test_what_was_measured_stays_when_measuring_is_cancelled(panel: Panel) -> None:
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("partial", {"cell": _cell("a", 2, 0.1)})
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("error", {"kind": "cancelled", "message": "Stopped."})
    assert len(panel.shown.heatmap.cells) == 1
    assert panel.shown.state is State.IDLE


def test_a_layer_is_kept_precise_and_let_go(panel: Panel) -> None:
    panel.quantize()
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("result", {"layers": ["a"], "bits": [2], "cells": [_cell("a", 2, 0.25)], "worst": ["a"]})
    assert not panel.action("keep_precise").enabled
    panel.presenter.layer_chosen("a")
    assert panel.shown.layer.text == "a: Linear 4 × 8, 50.0% of the weights. Its own output changes by 25.0% (2-bit)"  # noqa: RUF001
    panel.presenter.keep_precise()
    assert panel.shown.overrides == (("a", 8),)
    assert panel.shown.heatmap.layers[0].kept == 8
    assert not panel.shown.quantized_fits
    panel.presenter.quantize()
    assert panel.engine.last.params["overrides"] == {"a": 8}
    panel.engine.last.tell("error", {"kind": "cancelled", "message": "Stopped."})
    panel.presenter.keep_precise()
    assert panel.shown.overrides == ()
    panel.presenter.keep_precise("a", 32)
    panel.presenter.forget_wishes()
    assert panel.shown.overrides == ()
    assert panel.shown.quantized_fits


def test_each_model_has_wishes_and_a_heatmap_of_its_own(panel: Panel) -> None:
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("result", {"layers": ["a"], "bits": [2], "cells": [_cell("a", 2, 0.25)], "worst": ["a"]})
    panel.presenter.keep_precise("a")
    panel.presenter.model_chosen("embedded-nnunet")
    assert panel.shown.overrides == () and panel.shown.heatmap is None
    panel.presenter.model_chosen("embedded")
    assert panel.shown.overrides == (("a", 8),) and panel.shown.heatmap is not None


def test_exporting_writes_the_quantized_model(panel: Panel) -> None:
    assert not panel.action("export").enabled
    panel.quantize()
    panel.presenter.export("onnx", "/home/models")
    assert panel.engine.last.params == {
        "handle": "/exchange/w4.mq.safetensors",
        "format": "onnx",
        "folder": "/home/models",
    }
    panel.engine.last.tell("result", {"folder": "/home/models/embedded-w4-onnx"})
    panel.presenter.open_exported()
    assert panel.host.calls[-1] == ("open_folder", "/home/models/embedded-w4-onnx")
    assert "embedded-w4-onnx" in panel.shown.notice


def test_added_weights_are_listed_and_chosen(panel: Panel) -> None:
    panel.presenter.add_weights("/home/medsam_vit_b.pth")
    assert panel.engine.last.params == {"path": "/home/medsam_vit_b.pth"}
    told = {"spec": "/home/medsam_vit_b.pth", "title": "medsam_vit_b", "task": "box", "size": "375 MB"}
    panel.engine.last.tell("result", {"model": told})
    assert panel.shown.model == "/home/medsam_vit_b.pth"
    assert panel.shown.models[-1].title == "medsam_vit_b"
    panel.presenter.add_weights("/home/medsam_vit_b.pth")
    panel.engine.last.tell("result", {"model": told})
    assert [one.spec for one in panel.shown.models].count("/home/medsam_vit_b.pth") == 1


def test_a_dialog_that_was_closed_asks_nothing(panel: Panel) -> None:
    panel.compare_all()
    asked = len(panel.engine.asked)
    panel.presenter.add_weights("")
    panel.presenter.export("onnx", "")
    panel.presenter.save_report("")
    assert len(panel.engine.asked) == asked


def test_verbs_that_are_not_possible_do_nothing(panel: Panel) -> None:
    panel.presenter.segment()
    panel.presenter.compare()
    panel.presenter.difference()
    panel.presenter.export("onnx", "/out")
    panel.presenter.save_report("/report.html")
    panel.presenter.jump_to_worst()
    assert panel.engine.asked == []
    assert panel.shown.state is State.IDLE


def test_a_restart_is_told_to_the_application(panel: Panel) -> None:
    panel.engine.restarted()
    assert panel.host.calls[-1] == ("restarted",)


def test_the_cache_is_cleared_after_a_question(panel: Panel) -> None:
    panel.engine.quick["cache"] = None
    panel.presenter.clear_cache()
    assert "compiled models: none" in panel.host.did("confirm")[-1][1]
    assert panel.engine.last.params == {"clear": True}
    panel.engine.last.tell("result", {"text": "compiled models: 12 MB", "folder": "/cache"})
    assert panel.shown.cache == "compiled models: 12 MB"
    panel.presenter.open_cache()
    assert panel.host.calls[-1] == ("open_folder", "/cache")


def test_boxes_are_drawn_by_the_application(panel: Panel) -> None:
    panel.presenter.place_box()
    panel.presenter.box_from_segment()
    assert panel.host.did("start_box") == [("start_box", False), ("start_box", True)]


def test_while_a_box_is_drawn_the_panel_says_how(panel: Panel) -> None:
    panel.open_scan().quantize()
    panel.presenter.place_box()
    assert "two opposite corners" in panel.shown.hint and "Esc" in panel.shown.hint
    panel.host.placing = False  # the user pressed Esc
    panel.presenter.boxes_changed()
    assert panel.shown.hint == messages.HINT_BOX


def test_boxes_are_drawn_while_the_model_is_quantized(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.quantize()
    assert panel.action("place_box").enabled and panel.action("box_from_segment").enabled
    panel.presenter.place_box()
    assert panel.shown.state is State.QUANTIZING
    assert "two opposite corners" in panel.shown.hint
    panel.host.placing = False
    panel.draw(LIVER)
    panel.engine.last.tell("result", {"handle": "/w4", "bits": 4, "text": "2.5 MB", "pieces": 8})
    assert panel.primary() == ["segment"]
