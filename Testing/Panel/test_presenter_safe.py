"""The smallest safe model: what the search asks for, what it has found, and where that is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, Panel
from presenter_hands import FOUND, STOPPED, measured, safe


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    """A panel with a scan."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    return Panel().open_scan()


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
