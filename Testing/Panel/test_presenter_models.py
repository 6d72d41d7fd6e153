"""Models are quantized, measured layer by layer, exported and added: what is asked, and what becomes of the answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, Panel


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


def test_export_names_what_it_writes(panel: Panel) -> None:
    assert panel.action("export").text == "Export..."
    panel.quantize()
    panel.presenter.bits_chosen(2)
    assert panel.action("export").text == "Export 4-bit...", "the one that was made last"
    panel.quantize("/exchange/w2.mq.safetensors")
    assert panel.action("export").text == "Export 2-bit..."


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
    told = panel.shown.layer.text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MULTIPLICATION SIGN}", "x")
    assert told == "a: Linear 4 x 8, 50.0 % of the weights. Its own output changes by 25.0 % at 2 bits"
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
