"""What is saved with the scene comes back in another process; what was edited meanwhile is not passed off as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, WORST, Panel

HEAT = {"layer": "a", "kind": "Linear", "shape": [4, 8], "share": 0.5, "bits": 2, "effect": 0.25}


@pytest.fixture
def handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a quantized model, in the cache."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    path = tmp_path / "w4.mq.safetensors"
    path.touch()
    return str(path)


@pytest.fixture
def panel(handle: str) -> Panel:
    """A panel with a comparison, a heatmap and a wish."""
    panel = Panel()
    panel.open_scan().quantize(handle).draw(LIVER)
    panel.presenter.segment()
    panel.masks("fp32.npy").masks("w4.npy").compared()
    panel.presenter.find_sensitivity()
    panel.engine.last.tell("result", {"layers": [], "bits": [2], "cells": [HEAT], "worst": []})
    return panel


def reopened(panel: Panel, key: str = "another key", **scan: object) -> Panel:
    """The same scene in another process: other keys, and places as files keep them."""
    other = Panel()
    other.host.keeps = {(key if place else "", what): text for (place, what), text in panel.host.keeps.items()}
    nearly = replace(LIVER, corners=tuple(tuple(x + 1e-6 for x in corner) for corner in LIVER.corners))
    other.presenter.choices_loaded()
    other.draw(nearly)
    return other.open_scan(replace(CT, key=key, **scan))


def test_comparison_titles_model_and_heatmap_come_back_without_any_work(panel: Panel) -> None:
    panel.presenter.keep_precise("a")
    panel.presenter.keep_precise("a")  # the wish goes again, so that the model fits
    other = reopened(panel)
    assert other.engine.asked == []
    shown = other.shown
    assert shown.table == panel.shown.table and shown.table.headline == "Dice .994"
    assert (shown.left_title, shown.right_title) == (panel.shown.left_title, panel.shown.right_title)
    assert shown.quantized_fits and shown.quantized == panel.shown.quantized
    assert shown.heatmap == panel.shown.heatmap and shown.heatmap.complete
    assert other.primary() == panel.primary()
    assert shown.worst == WORST["text"]
    other.presenter.jump_to_worst()
    assert other.host.calls[-1] == ("jump_to", (1.0, 2.0, 3.0))


def test_types_of_layers_and_the_reference_come_back(panel: Panel) -> None:
    told = {**HEAT, "view": "incremental", "dsc": 0.9, "dsc_loss": 0.05, "reference_loss": 0.04}
    panel.presenter.set_option("view", "incremental")
    panel.presenter.reference_chosen("Expert")
    panel.compared()
    panel.presenter.find_sensitivity()
    types = [{**told, "layer": "Linear MLP"}]
    panel.engine.last.tell("result", {"cells": [HEAT, told], "types": types, "fp32_vs_reference": 0.784})
    before = panel.shown.heatmap
    assert before.types.cells[0].reference_loss == 0.04 and "Expert" in before.against
    other = reopened(panel)
    other.presenter.set_option("view", "incremental")
    assert other.shown.heatmap == before


def test_wishes_come_back_and_go_with_the_scene(panel: Panel) -> None:
    panel.presenter.keep_precise("a", 8)
    other = reopened(panel)
    assert other.shown.overrides == (("a", 8),)
    assert other.shown.heatmap.layers[0].kept == 8
    other.host.chosen, other.host.keeps = None, {}
    other.presenter.scene_closed()
    assert other.shown.overrides == ()


def test_the_difference_is_found_anew_from_the_masks_of_the_scene(panel: Panel) -> None:
    other = reopened(panel)
    other.presenter.difference()
    assert other.shown.state is State.COMPARING
    assert [call[1] for call in other.host.did("write_masks")] == [FP32, QUANTIZED]
    asked = other.engine.last.params
    assert asked["fp32"]["array"] != "fp32.npy" and asked["fp32"]["offset"] is None
    assert not asked["fp32"]["edited"] and asked["fp32"]["bits"] == 4
    other.compared()
    assert other.host.calls[-1] == ("show_masks", DIFFERENCE, "difference.npy", False)
    assert other.shown.difference_shown
    assert {asked[kind]["array"] for kind in (FP32, QUANTIZED)} <= set(other.engine.discarded)


def test_looking_at_the_difference_of_a_reopened_scene_changes_no_result(panel: Panel) -> None:
    other = reopened(panel)
    table, kept = other.shown.table, dict(other.host.keeps)
    other.presenter.difference()
    other.compared({"text": "Slice 5 differs most", "position": [1.0, 2.0, 4.0]})
    assert other.shown.difference_shown
    assert other.shown.table is table and other.shown.worst == WORST["text"]
    assert other.host.keeps == kept
    other.presenter.compare()
    other.compared({"text": "Slice 5 differs most", "position": [1.0, 2.0, 4.0]})
    assert other.shown.worst == "Slice 5 differs most" and other.host.keeps != kept, "asked for, it is compared anew"


def test_a_difference_that_could_not_be_found_is_not_said_to_be_shown(panel: Panel) -> None:
    other = reopened(panel)
    other.presenter.difference()
    other.engine.last.tell("error", {"kind": "memory", "message": "Too large. Cut it."})
    assert not other.shown.difference_shown
    assert other.shown.table is not None


def test_a_quantized_model_whose_file_is_gone_is_quantized_again(panel: Panel, handle: str) -> None:
    Path(handle).unlink()
    other = reopened(panel)
    assert other.shown.quantized == ""
    assert other.primary() == ["quantize"]
    assert other.shown.table is not None, "what was compared was compared"


def test_a_scan_on_another_grid_has_no_results(panel: Panel) -> None:
    moved = ((1.0, 0.0, 0.0, 7.0), *CT.ijk_to_lps[1:])
    other = reopened(panel, ijk_to_lps=moved)
    assert other.shown.table is None and other.shown.left_title == ""
    assert other.shown.heatmap == panel.shown.heatmap, "of its voxels, wherever they lie"


def test_a_scan_that_is_chosen_again_has_its_results_again(panel: Panel) -> None:
    panel.open_scan(replace(CT, key="ct-2"))
    assert panel.shown.table is None
    panel.open_scan(CT)
    assert panel.shown.table.headline == "Dice .994"
    assert panel.primary() == ["jump_to_worst"]


def test_what_is_kept_damaged_is_not_there(panel: Panel) -> None:
    panel.host.keeps = dict.fromkeys(panel.host.keeps, "{not json")
    assert reopened(panel).shown.table is None


def _each_value(told: object, place: tuple = ()):
    """Every place in nested lists and dictionaries."""
    items = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from _each_value(value, (*place, key))


def _changed(told: object, place: tuple, value: object) -> str:
    """The text with another value at a place; with none where that is `_each_value`."""
    made = json.loads(json.dumps(told))
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    if value is _each_value:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return json.dumps(made)


@pytest.mark.parametrize(
    "value", [None, 7, "text", [], {}, [["a"]], _each_value], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_text_of_another_version_is_ignored_item_by_item(panel: Panel, value: object) -> None:
    """Whatever stands in one place, or does not: it is never raised, and what does not depend on it comes back."""
    panel.presenter.keep_precise("a")
    texts = {key: json.loads(text) for key, text in panel.host.keeps.items() if text}
    assert len(texts) == 4
    for key, told in texts.items():
        for place in _each_value(told):
            panel.host.keeps[key] = _changed(told, place, value)
            shown = reopened(panel).shown
            if key[1] == "choices":
                assert shown.table is not None and shown.left_title
            elif key[1] == "comparison":
                assert shown.left_title and shown.heatmap
                assert shown.table is None or isinstance(shown.table.headline, str)
        panel.host.keeps[key] = json.dumps(told)


def test_one_damaged_model_does_not_cost_the_others(panel: Panel) -> None:
    (key, text) = next((key, text) for key, text in panel.host.keeps.items() if key[1] == "choices")
    told = json.loads(text)
    told["made"] = [["a"], {"handle": 5}, ["embedded", "{}", {"handle": "x"}], *told["made"]]
    panel.host.keeps[key] = json.dumps(told)
    assert reopened(panel).shown.quantized_fits


def test_what_is_kept_names_no_folder_of_the_user(panel: Panel, handle: str, tmp_path: Path, monkeypatch) -> None:
    """A scene is given to others; and where they have the same model, it is found."""
    assert all(str(tmp_path) not in text for text in panel.host.keeps.values())
    elsewhere = tmp_path / "of somebody else"
    elsewhere.mkdir()
    Path(handle).rename(elsewhere / Path(handle).name)
    monkeypatch.setenv("MEDQUANT_CACHE", str(elsewhere))
    assert reopened(panel).presenter.facts.quantized.handle == str(elsewhere / Path(handle).name)


def test_the_users_home_is_named_by_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from MedQuantSlicerLib.portable import local, portable

    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path / "ann" / "cache"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "ann")
    told = {str(tmp_path / "ann" / "a.pth"): [1, None, str(tmp_path / "ann" / "cache" / "w4"), "layers.1", "/else"]}
    assert portable(told) == {"<home>/a.pth": [1, None, "<cache>/w4", "layers.1", "/else"]}
    assert local(portable(told)) == told


def test_a_scan_with_other_voxels_has_no_results(panel: Panel) -> None:
    assert reopened(panel, digest="others").shown.table is None


def test_edited_masks_make_the_table_old_and_are_compared_as_they_are(panel: Panel) -> None:
    panel.host.states[QUANTIZED] = "edited"
    panel.presenter.masks_changed()
    old = panel.shown.table
    assert (old.headline, old.rows[0].cells[0].text) == (messages.STALE, ".994")
    assert panel.primary() == ["compare"]
    panel.presenter.update()
    assert panel.shown.table is old, "the panel fills its tables only where they are others"
    assert panel.shown.right_title.endswith("edited") and not panel.shown.left_title.endswith("edited")
    panel.presenter.compare()
    asked = panel.engine.last.params
    assert panel.host.did("write_masks") == [("write_masks", QUANTIZED, asked[QUANTIZED]["array"])]
    assert asked[QUANTIZED]["edited"] and not asked[FP32]["edited"]
    assert asked[QUANTIZED]["labels"] == {"1": "liver", "2": "mine"}
    assert asked[FP32]["array"] == "fp32.npy"
    panel.compared()
    assert panel.shown.table.headline == "Dice .994"
    assert reopened(panel).shown.right_title == "4-bit  2.5 MB  1.02 s", "the fakes' masks are in their first state"


def test_an_edited_reference_makes_the_table_old(panel: Panel) -> None:
    panel.presenter.reference_chosen("manual")
    panel.compared()
    panel.host.states["reference"] = "2"
    panel.presenter.masks_changed()
    assert panel.shown.table.headline == messages.STALE
    assert messages.STALE_NOTE in panel.shown.table.notes
    panel.presenter.compare()
    panel.compared()
    assert panel.shown.table.headline == "Dice .994"


def test_another_reference_of_the_same_name_is_another_one(panel: Panel) -> None:
    panel.presenter.reference_chosen("manual")
    panel.compared()
    panel.host.states["reference"] = "of somebody else"
    panel.presenter.reference_chosen("manual")
    assert panel.shown.state is State.COMPARING


def test_segmenting_does_not_replace_edited_masks_without_a_question(panel: Panel) -> None:
    panel.host.states[FP32] = "edited"
    panel.host.says_yes, asked = False, len(panel.engine.asked)
    panel.presenter.segment()
    assert panel.host.did("confirm")[-1] == ("confirm", messages.ASK_REPLACE)
    assert len(panel.engine.asked) == asked
    panel.host.says_yes = True
    panel.presenter.segment()
    assert panel.engine.last.method == "segment"


def test_masks_that_somebody_removed_are_segmented_again(panel: Panel) -> None:
    panel.host.states[QUANTIZED] = ""
    panel.presenter.masks_changed()
    assert panel.shown.right_title == "" and not panel.action("compare").enabled
    assert panel.primary() == ["segment"]


def test_masks_in_the_making_are_not_taken_for_edited(panel: Panel) -> None:
    panel.presenter.segment()
    panel.host.states[FP32] = "half of it"
    panel.presenter.masks_changed()
    assert panel.shown.table.headline == "Dice .994"


def test_quantizing_once_more_is_asked_for_as_that(panel: Panel) -> None:
    panel.presenter.quantize()
    assert panel.engine.last.params["again"]
    panel.presenter.cancel()
    panel.engine.last.tell("error", {"kind": "cancelled", "message": "Stopped."})
    panel.presenter.bits_chosen(2)
    panel.presenter.quantize()
    assert not panel.engine.last.params["again"]


def test_what_was_exported_is_not_lost(panel: Panel, handle: str) -> None:
    assert panel.presenter.not_exported() == {handle}
    panel.presenter.export("onnx", "/home/models")
    panel.engine.last.tell("result", {"folder": "/home/models/w4"})
    assert panel.presenter.not_exported() == frozenset()


def test_clearing_forgets_the_quantized_models_that_went(panel: Panel, handle: str) -> None:
    panel.engine.quick["cache"] = None
    panel.presenter.clear_cache()
    Path(handle).unlink()
    panel.engine.last.tell("result", {"text": "nothing", "folder": "/cache"})
    assert panel.shown.quantized == "" and panel.primary() == ["quantize"]
