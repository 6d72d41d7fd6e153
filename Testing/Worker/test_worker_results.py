"""Results by the real worker on a real scan: comparison, report, sensitivity of layers, smallest safe model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from real_scan import LIVER, Bench


def test_seconds_of_two_runtimes_are_said_to_be(bench: Bench, masks: dict) -> None:
    told = {"volume": bench.volume, "of": "embedded"}
    fp32, quantized = ({**masks[kind], "known_slices": 0} for kind in ("fp32", "quantized"))
    same = bench.loop.result(bench.engine, "compare", {"fp32": fp32, "quantized": quantized, **told})
    fp32 = {**fp32, "execution": {**fp32["execution"], "runtime": "onnxruntime"}}
    differing = bench.loop.result(bench.engine, "compare", {"fp32": fp32, "quantized": quantized, **told})
    assert not any("ran by" in note for note in same["table"]["notes"])
    (note,) = (note for note in differing["table"]["notes"] if "ran by" in note)
    assert note.startswith("FP32 ran by ONNX Runtime and 4-bit ran by PyTorch")


def test_a_comparison_as_it_is_shown(bench: Bench, masks: dict, quantized: dict) -> None:
    params = {**masks, "volume": bench.volume, "of": "embedded", "scan": "1f"}
    found = bench.loop.result(bench.engine, "compare", params)
    fp32, small = (bench.whole(masks[kind]) for kind in ("fp32", "quantized"))
    differs = fp32 != small
    assert found["difference_per_slice"] == differs.sum((1, 2)).tolist()
    difference = bench.whole(found["difference"])
    np.testing.assert_array_equal(difference == 1, differs & (fp32 > 0))
    np.testing.assert_array_equal(difference == 2, differs & (fp32 == 0))
    worst = found["worst"]
    assert worst["index"] == differs.sum((1, 2)).argmax() and worst["voxels"] == differs.sum((1, 2)).max()
    index = np.linalg.solve(bench.scan.affine, [*worst["position"], 1.0])
    assert round(index[2]) == worst["index"]
    dice = 2 * ((fp32 > 0) & (small > 0)).sum() / ((fp32 > 0).sum() + (small > 0).sum())
    assert found["models"][1]["dsc_vs_fp32"] == pytest.approx(dice, abs=1e-9)
    table = found["table"]
    assert [row["title"] for row in table["rows"]] == ["FP32", "4-bit", "liver"]
    assert all(len(row["cells"]) == len(table["columns"]) == len(table["tooltips"]) for row in table["rows"])
    assert table["rows"][1]["badges"][:2] == ["simulated", "CPU"]
    assert found["verdict"] in table["headline"]
    assert any("demonstration" in note for note in table["notes"]) and table["notes"][-1] == "Not for clinical use."
    assert table["csv"].count("\n") == 4
    choices = bench.loop.result(bench.engine, "sizes", {"model": "embedded"})["choices"]
    assert choices["4"]["verdicts"] == {"1f": found["verdict"]} and choices["2"]["verdicts"] == {}
    assert choices["4"]["seconds"].endswith(" a slice")


def test_a_comparison_with_a_reference(bench: Bench, masks: dict) -> None:
    np.save(bench.engine.folder / "reference.npy", bench.labels)
    reference = {"array": "reference.npy", "labels": {str(LIVER): "liver"}}
    found = bench.loop.result(bench.engine, "compare", {**masks, "volume": bench.volume, "reference": reference})
    assert found["has_reference"] and "FP32 to reference" in found["table"]["columns"]
    assert all(len(row["cells"]) == len(found["table"]["columns"]) for row in found["table"]["rows"])


def test_masks_that_are_the_same_differ_nowhere(bench: Bench, masks: dict) -> None:
    asked = {"fp32": masks["fp32"], "quantized": masks["fp32"], "volume": bench.volume}
    found = bench.loop.result(bench.engine, "compare", asked)
    assert found["worst"] is None and sum(found["difference_per_slice"]) == 0


def test_a_report_that_names_no_patient(bench: Bench, masks: dict, quantized: dict, tmp_path: Path) -> None:
    asked = {**masks, "volume": {**bench.volume, "name": "Doe^Jane"}, "of": "embedded", "handle": quantized["handle"]}
    path = tmp_path / "report.html"
    told = bench.loop.result(bench.engine, "report", {**asked, "title": "Small model", "path": str(path)})
    assert told["path"] == str(path)
    page = path.read_text(encoding="utf-8")
    assert "Small model" in page and "liver" in page and "vision_encoder" in page
    assert "Doe^Jane" not in page


@pytest.mark.parametrize(("told", "same"), [(None, True), (None, False), (False, True), (True, False)])
def test_what_it_was_calibrated_on_is_told(
    bench: Bench, masks: dict, quantized: dict, tmp_path: Path, told: bool | None, same: bool
) -> None:
    """By the file's own hash of the scan, unless the panel knows."""
    volume = bench.volume
    if not same:
        np.save(bench.engine.folder / "another.npy", bench.scan.array + np.int16(1))
        volume = {**volume, "array": "another.npy"}
    asked = {**masks, "volume": volume, "handle": quantized["handle"], "calibrated_here": told}
    here = same if told is None else told
    notes = bench.loop.result(bench.engine, "compare", asked)["table"]["notes"]
    assert ("4-bit was calibrated on another scan." in notes) is not here
    path = tmp_path / "report.html"
    bench.loop.result(bench.engine, "report", {**asked, "path": str(path)})
    assert f"1 piece of {'this' if here else 'another'} scan, unlabelled" in path.read_text(encoding="utf-8")


def test_sensitivity_cell_by_cell(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "bits": [2], "slices": 1, "granularity": "per-channel"}
    answer = bench.loop.ask(bench.engine, "sensitivity", asked)
    bench.loop.wait(lambda: answer.done)
    cells = answer.result["cells"]
    assert [told["cell"] for told in answer.partial if "cell" in told] == cells
    assert [cell["layer"] for cell in cells] == answer.result["layers"]
    assert sum(cell["share"] for cell in cells) == pytest.approx(1.0)
    worst = max(cells, key=lambda cell: cell["effect"])
    assert answer.result["worst"][0] == worst["layer"] and worst["effect"] > 0.01


def test_views_of_the_layers_come_with_histograms_and_their_agreement(bench: Bench) -> None:
    """A view that was measured before is told again, and compared with what is measured now."""
    shared = {"model": "embedded", "volume": bench.volume, "bits": [2, 4], "slices": 1, "what": "weights"}
    answer = bench.loop.ask(bench.engine, "sensitivity", {**shared, "views": ["proxy"]})
    bench.loop.wait(lambda: answer.done)
    first, *cells = answer.partial
    names = answer.result["layers"]
    assert [one["layer"] for one in first["histograms"]] == names
    weights = first["histograms"][0]["weights"]
    assert weights["minimum"] < 0 < weights["maximum"]
    assert [told["cell"] for told in cells] == answer.result["cells"] and len(cells) == 2 * len(names)
    assert not any("dsc" in told["cell"] for told in cells), "masks were not looked at"
    assert answer.result["agreement"] == []
    layers = {one["layer"]: {k: one[k] for k in ("kind", "shape", "share")} for one in answer.result["cells"]}
    known = {"view": "one-at-a-time", "what": "weights", "layers": [{"name": n, **told} for n, told in layers.items()]}
    known["cells"] = [{k: one[k] for k in ("layer", "bits", "effect")} for one in answer.result["cells"]]
    again = bench.loop.result(bench.engine, "sensitivity", {**shared, "views": ["proxy"], "known": [known]})
    rows = again["agreement"]
    assert [(row["bits"], set(row["views"])) for row in rows] == [(bits, {"proxy", "one-at-a-time"}) for bits in (2, 4)]
    assert [row["spearman"] for row in rows] == pytest.approx([1.0, 1.0]), "the same numbers, by another name"


def test_effects_on_masks_are_told_with_their_dice(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "bits": [2], "views": ["proxy", "one-at-a-time"]}
    answer = bench.loop.ask(bench.engine, "sensitivity", asked)
    bench.loop.wait(lambda: sum(told.get("cell", {}).get("view") == "one-at-a-time" for told in answer.partial) >= 5)
    answer.request.cancel()
    assert bench.loop.wait(lambda: answer.done) < 2.0
    told = [one["cell"] for one in answer.partial if "cell" in one]
    own = [cell for cell in told if cell["view"] == "proxy"]
    masks = [cell for cell in told if cell["view"] == "one-at-a-time"]
    assert told.index(masks[0]) == len(own) == 79, "the quick estimate comes first"
    assert all(cell["dsc_loss"] is None for cell in own)
    assert all(cell["dsc_loss"] == pytest.approx(1 - cell["dsc"]) for cell in masks)
    assert max(cell["dsc_loss"] for cell in masks) > 0.005


@pytest.mark.heavy
def test_the_smallest_safe_model_is_a_quantized_model(bench: Bench, masks: dict, tmp_path: Path) -> None:
    """With a tolerance that the embedded model's few slices can keep; every other method is slower."""
    asked = {"model": "embedded", "volume": bench.volume, "method": "rtn", "slices": 3, "widths": [2, 8]}
    asked |= {"overrides": {"vision_encoder.neck.conv1": 32, "vision_encoder.neck.conv2": 8}}
    answer = bench.loop.ask(bench.engine, "find_safe", {**asked, "tolerance": {"dsc": 0.7}})
    bench.loop.wait(lambda: answer.done, 200)
    found = answer.result
    tried = [one["tried"] for one in answer.partial]
    assert found["safe"] and tried == found["tried"]
    safe = [one for one in tried if one["safe"]]
    assert min(one["dsc"] for one in safe) >= 0.7
    kept = {layer["name"]: layer["bits"] for layer in found["report"]["layers"]}
    assert "vision_encoder.neck.conv1" not in kept and "vision_encoder.neck.conv1" in found["report"]["kept"]
    assert set(kept.values()) == {2, 8} and found["bits"] == 0
    assert found["precise"] == [name for name, bits in kept.items() if bits == 8]
    assert Path(found["handle"]).stat().st_size == found["bytes"]
    assert f"{sum(bits == 2 for bits in kept.values())} of 2 bits" in found["found"]
    assert re.match(r"Mean Dice \S+( \(lowest \S+\))? on 1 held-out slice, ", found["found"])
    mask = bench.segment(found["handle"])["mask"]
    pair = {"fp32": masks["fp32"], "quantized": mask, "volume": bench.volume, "handle": found["handle"]}
    table = bench.loop.result(bench.engine, "compare", pair)["table"]
    assert [row["title"] for row in table["rows"]] == ["FP32", "2 to 8 bits", "liver"]


def test_where_no_model_is_safe_none_is_made(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "method": "rtn", "slices": 3, "widths": [2]}
    found = bench.loop.result(bench.engine, "find_safe", {**asked, "tolerance": {"dsc": 0.999}})
    assert not found["safe"] and found["handle"] == "" and "Dice" in found["found"]
    answer = bench.loop.ask(bench.engine, "find_safe", {**asked, "slices": 8, "tolerance": {"dsc": 0.99}})
    bench.loop.wait(lambda: any("layer" in told["text"] for told in answer.progress))
    answer.request.cancel()
    assert bench.loop.wait(lambda: answer.done) < 2.0
    assert answer.error["kind"] == "cancelled"


def test_the_report_has_the_map_of_the_layers(bench: Bench, masks: dict, tmp_path: Path) -> None:
    layer = {"name": "a.0", "kind": "Linear", "shape": [4, 8], "share": 0.5}
    cells = [{"layer": "a.0", "bits": bits, "effect": None, "dsc_loss": 0.2 / bits} for bits in (2, 4)]
    told = {"view": "one-at-a-time", "what": "weights", "layers": [layer], "cells": cells}
    path = tmp_path / "report.html"
    asked = {**masks, "volume": bench.volume, "sensitivity": told, "path": str(path)}
    bench.loop.result(bench.engine, "report", asked)
    page = path.read_text(encoding="utf-8")
    assert "Which layers break first" in page and "<code>a.0</code>" in page and ">10</td>" in page
    assert "Spearman" not in page and "All layers of one type" not in page
    names = [f"a.{n}" for n in range(3)]
    told |= {"layers": [{**layer, "name": name} for name in names], "fp32_vs_reference": 0.875, "view": "incremental"}
    told["cells"] = [
        {"layer": name, "bits": 2, "effect": 0.1 * n, "dsc_loss": 0.01 * n, "reference_loss": 0.02 * n}
        for n, name in enumerate(names)
    ]
    told["types"] = [{**told["cells"][2], "layer": "Linear MLP", "share": 0.5}]
    other = {"view": "proxy", "what": "weights", "layers": told["layers"], "cells": told["cells"][::-1]}
    bench.loop.result(bench.engine, "report", {**asked, "sensitivity": {**told, "others": [other]}})
    page = path.read_text(encoding="utf-8")
    assert "one spared at a time and the quick estimate: 1.00 at 2 bits" in page
    assert "All layers of one type" in page and "Linear MLP" in page and ".875" in page and ".040</td>" in page


def test_masks_of_the_layers_are_held_against_a_reference(bench: Bench) -> None:
    """And where input ranges were fitted, on another slice than theirs."""
    np.save(bench.engine.folder / "reference.npy", bench.labels)
    asked = {"model": "embedded", "volume": bench.volume, "bits": [2], "views": ["one-at-a-time"], "what": "both"}
    asked["reference"] = {"array": "reference.npy", "labels": {str(LIVER): "liver"}}
    answer = bench.loop.ask(bench.engine, "sensitivity", asked)
    bench.loop.wait(lambda: answer.done, 120)
    fp32 = answer.result["fp32_vs_reference"]
    assert 0.5 < fp32 < 1
    for cell in answer.result["cells"]:
        assert cell["reference_loss"] == pytest.approx(fp32 - cell["dsc_vs_reference"])
    assert max(cell["reference_loss"] for cell in answer.result["cells"]) > 0.005
