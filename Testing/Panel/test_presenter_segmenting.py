"""Boxes and segmenting: what is asked of the engine and of the application, and what becomes of the masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.host import FP32, QUANTIZED
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, Panel


def test_the_scan_is_handed_over_once(panel: Panel) -> None:
    panel.compare_all()
    assert len(panel.host.did("write_volume")) == 1
    panel.open_scan(replace(CT, key="ct-2"))
    assert "volume-1.npy" not in panel.engine.discarded
    panel.presenter.quantize()
    assert len(panel.host.did("write_volume")) == 2
    assert "volume-1.npy" in panel.engine.discarded


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
