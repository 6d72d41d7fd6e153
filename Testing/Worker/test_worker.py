"""The real worker with the embedded model on a real scan: quantize, segment, compare, sensitivity, report, export."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from event_loop import Answer, EventLoop

from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume

LIVER = 5
SLICES = (9, 11)


@dataclass
class Bench:
    """A warm worker and a scan that was handed over to it."""

    loop: EventLoop
    engine: Any
    scan: Volume
    labels: np.ndarray
    volume: dict[str, Any]

    def boxes(self, affine: np.ndarray | None = None) -> list[dict[str, Any]]:
        """A box around the liver on a few slices, by its eight corners."""
        affine = self.scan.affine if affine is None else affine
        first, last = SLICES
        _, j, i = np.nonzero(self.labels[first : last + 1] == LIVER)
        ranges = ((i.min(), i.max()), (j.min(), j.max()), SLICES)
        corners = [(affine @ (*corner, 1.0))[:3].tolist() for corner in itertools.product(*ranges)]
        return [{"name": "liver", "label": 3, "corners": corners}]

    def segment(self, model: str = "embedded", **more: Any) -> dict[str, Any]:
        """Masks by PyTorch, which starts at once."""
        asked = {"model": model, "of": "embedded", "volume": self.volume, "boxes": self.boxes(), "runtime": "pytorch"}
        return self.loop.result(self.engine, "segment", {**asked, **more})

    def array(self, told: dict[str, Any]) -> np.ndarray:
        """What is in a file of an answer."""
        return np.load(self.engine.path(told["array"]))

    def whole(self, told: dict[str, Any]) -> np.ndarray:
        """Labels on the scan's grid."""
        whole = np.zeros(self.scan.shape, np.uint8)
        part = self.array(told)
        whole[tuple(slice(at, at + size) for at, size in zip(told["offset"], part.shape, strict=True))] = part
        return whole

    def hand_over(self, name: str, array: np.ndarray, affine: np.ndarray | None = None) -> dict[str, Any]:
        """An array as a scan."""
        np.save(self.engine.folder / name, array)
        matrix = self.scan.affine if affine is None else affine
        return {"array": name, "ijk_to_lps": matrix.tolist(), "modality": "CT", "name": "scan"}


@pytest.fixture(scope="module")
def bench(test_data: Path, warm_loop: EventLoop) -> Bench:
    """The abdominal CT."""
    scan = read_volume(test_data / "ct_abdomen_dicom" / "series")
    labels = read_labels(test_data / "ct_abdomen_dicom" / "labels.nii.gz", scan, names={LIVER: "liver"}).labels
    engine = warm_loop.engine(sys.executable, "-m", "medquant", "worker")
    made = Bench(warm_loop, engine, scan, labels, {})
    made.volume = made.hand_over("volume.npy", scan.array)
    return made


@pytest.fixture(scope="module")
def quantized(bench: Bench) -> dict[str, Any]:
    """The embedded model at 4 bits."""
    asked = {"model": "embedded", "volume": bench.volume, "bits": 4, "slices": {"count": 1, "where": "body"}}
    return bench.loop.result(bench.engine, "quantize", asked)


@pytest.fixture(scope="module")
def masks(bench: Bench, quantized: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of FP32 and of the quantized model."""
    return {"fp32": bench.segment()["mask"], "quantized": bench.segment(quantized["handle"])["mask"]}


def test_the_panel_knows_the_models_beforehand(bench: Bench) -> None:
    from MedQuantSlicerLib.known_models import KNOWN_MODELS
    from MedQuantSlicerLib.showing import model_line

    told = [model_line(one) for one in bench.loop.result(bench.engine, "models")["models"]]
    for known in KNOWN_MODELS:
        line = next(one for one in told if one.spec == known.spec)
        names = ("title", "task", "needs_box", "modality", "size", "licence", "is_demo")
        assert [getattr(line, name) for name in names] == [getattr(known, name) for name in names]


def test_the_machine_and_the_cache_in_words(bench: Bench) -> None:
    assert "core" in bench.loop.result(bench.engine, "machine")["text"]
    kept = bench.loop.result(bench.engine, "cache")
    assert kept["folder"] == os.environ["MEDQUANT_CACHE"]


def test_expected_sizes_are_those_of_the_files(bench: Bench, quantized: dict[str, Any]) -> None:
    from medquant.worker import measured

    choices = bench.loop.result(bench.engine, "sizes", {"model": "embedded"})["choices"]
    assert choices["4"]["measured"] and choices["4"]["bytes"] == quantized["bytes"]
    assert quantized["bytes"] == Path(quantized["handle"]).stat().st_size
    assert not choices["8"]["measured"]
    assert choices["8"]["bytes"] > choices["4"]["bytes"] > choices["2"]["bytes"]
    assert measured.recall("embedded", quantized["recipe"])["bytes"] == quantized["bytes"]


def test_what_was_quantized_once_is_found_by_a_new_process(bench: Bench, quantized: dict[str, Any]) -> None:
    """As long as scan, slices and settings are the same, and nobody asks to do it again."""
    asked = {"model": "embedded", "volume": bench.volume, "bits": 4, "slices": {"count": 1, "where": "body"}}
    other = bench.loop.engine(sys.executable, "-m", "medquant", "worker")
    scan = {**bench.volume, "array": "again.npy"}
    np.save(other.folder / "again.npy", bench.scan.array)
    answer = bench.loop.ask(other, "quantize", {**asked, "volume": scan})
    bench.loop.wait(lambda: answer.done)
    found = answer.result
    assert found["kept"] and not quantized["kept"]
    assert (found["handle"], found["text"]) == (quantized["handle"], quantized["text"])
    assert not any(told["text"].startswith("Quantizing") for told in answer.progress)
    assert Path(found["handle"]).is_relative_to(os.environ["MEDQUANT_CACHE"])
    np.save(other.folder / "other.npy", bench.scan.array + np.int16(1))
    quick = {**asked, "method": "rtn", "volume": {**scan, "array": "other.npy"}}
    first, second, again = (
        bench.loop.result(other, "quantize", {**quick, **more}) for more in ({}, {}, {"again": True})
    )
    assert [one["kept"] for one in (first, second, again)] == [False, True, False]
    assert first["handle"] == second["handle"] == again["handle"] != quantized["handle"]


def test_a_kept_model_that_is_damaged_is_made_again(quantized: dict[str, Any], tmp_path: Path) -> None:
    from medquant.deploy.quantized_models import is_kept
    from medquant.progress import Progress
    from medquant.worker.methods.quantizing import _found
    from medquant.worker.warm import Warm

    damaged = tmp_path / "w4-cut.mq.safetensors"
    damaged.write_bytes(Path(quantized["handle"]).read_bytes()[:-1000])
    assert is_kept(damaged), "its header is whole"
    assert _found(damaged, SimpleNamespace(warm=Warm()), Progress()) is None


def test_progress_tells_what_happens(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "bits": 8, "method": "rtn", "slices": 1}
    answer = bench.loop.ask(bench.engine, "quantize", asked)
    bench.loop.wait(lambda: answer.done)
    assert answer.error is None
    fractions = [told["fraction"] for told in answer.progress]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    assert any(told["text"].startswith("Quantizing layer ") for told in answer.progress)


def test_masks_come_slice_by_slice_and_lie_where_the_liver_is(bench: Bench) -> None:
    parts: list[dict[str, Any]] = []
    whole = np.zeros(bench.scan.shape, np.uint8)

    def take(told: dict[str, Any]) -> None:
        block, begin = bench.array(told["masks"]), told["masks"]["offset"]
        place = tuple(slice(at, at + size) for at, size in zip(begin, block.shape, strict=True))
        whole[place] = block
        parts.append(told["masks"])

    answer: Answer = bench.loop.ask(
        bench.engine,
        "segment",
        {"model": "embedded", "volume": bench.volume, "boxes": bench.boxes(), "runtime": "pytorch"},
        on_partial=take,
    )
    bench.loop.wait(lambda: answer.done)
    mask = answer.result["mask"]
    found = bench.whole(mask)
    assert bench.array(mask).size < found.size / 10 and all(bench.array(mask).any(axis).any() for axis in range(3))
    assert parts and all(part["labels"] == mask["labels"] == {"3": "liver"} for part in parts)
    np.testing.assert_array_equal(whole, found)
    first, last = SLICES
    assert found.shape == bench.scan.shape and set(np.unique(found)) == {0, 3}
    assert not found[:first].any() and not found[last + 1 :].any()
    truth = bench.labels[first : last + 1] == LIVER
    seen = found[first : last + 1] == 3
    assert 2 * (truth & seen).sum() / (truth.sum() + seen.sum()) > 0.9
    assert (answer.result["device"], answer.result["kernels"]) == ("CPU", "float32")
    assert answer.result["slices"] == 3


def test_boxes_of_one_name_share_a_label_and_others_never(bench: Bench) -> None:
    (box,) = bench.boxes()
    named = [{**box, "name": name, "label": 1} for name in ("liver", "spleen", "liver", "")]
    told = bench.segment(boxes=named, extent="slice")["mask"]
    assert told["labels"] == {"1": "liver", "2": "spleen", "3": "structure 4"}


def test_the_middle_slice_alone(bench: Bench) -> None:
    found = bench.whole(bench.segment(extent="slice")["mask"])
    assert np.flatnonzero(found.any((1, 2))).tolist() == [sum(SLICES) // 2]


@pytest.mark.parametrize("case", ["oblique", "left-handed", "two corners"])
def test_masks_sit_where_they_belong_however_the_scan_lies(bench: Bench, masks: dict, case: str) -> None:
    turn = np.eye(4)
    if case == "oblique":
        a, b = np.deg2rad((12.0, 7.0))
        around_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
        around_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
        turn[:3, :3] = np.array(around_z) @ np.array(around_x)
        turn[:3, 3] = (13.0, -40.0, 200.0)
    array, affine = bench.scan.array, turn @ bench.scan.affine
    if case == "left-handed":
        array = array[::-1]
        affine = affine @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, len(array) - 1], [0, 0, 0, 1]]
    boxes = bench.boxes(turn @ bench.scan.affine)
    if case == "two corners":
        boxes[0]["corners"] = [boxes[0]["corners"][0], boxes[0]["corners"][-1]]
    volume = bench.hand_over(f"{case.replace(' ', '-')}.npy", np.ascontiguousarray(array), affine)
    found = bench.whole(bench.segment(volume=volume, boxes=boxes)["mask"])
    found = found[::-1] if case == "left-handed" else found
    np.testing.assert_array_equal(found, bench.whole(masks["fp32"]))


def test_slices_that_are_known_are_not_encoded_again(bench: Bench, masks: dict) -> None:
    again = bench.segment()["mask"]
    assert again["known_slices"] and again["stages"]["encoder"] < masks["fp32"]["seconds"] / 10
    np.testing.assert_array_equal(bench.whole(again), bench.whole(masks["fp32"]))


def test_seconds_of_two_runtimes_are_said_to_be(bench: Bench, masks: dict) -> None:
    told = {"volume": bench.volume, "of": "embedded"}
    fp32, quantized = ({**masks[kind], "known_slices": 0} for kind in ("fp32", "quantized"))
    same = bench.loop.result(bench.engine, "compare", {"fp32": fp32, "quantized": quantized, **told})
    fp32 = {**fp32, "execution": {**fp32["execution"], "runtime": "onnxruntime"}}
    differing = bench.loop.result(bench.engine, "compare", {"fp32": fp32, "quantized": quantized, **told})
    assert not any("ran by" in note for note in same["table"]["notes"])
    (note,) = (note for note in differing["table"]["notes"] if "ran by" in note)
    assert note.startswith("FP32 ran by onnxruntime and 4-bit ran by pytorch")


def test_a_comparison_as_it_is_shown(bench: Bench, masks: dict, quantized: dict) -> None:
    found = bench.loop.result(bench.engine, "compare", {**masks, "volume": bench.volume, "of": "embedded"})
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
    assert choices["4"]["accuracy"] == found["verdict"]
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
    assert re.match(r"Mean Dice \S+ on 1 held-out slice, ", found["found"])
    mask = bench.segment(found["handle"])["mask"]
    pair = {"fp32": masks["fp32"], "quantized": mask, "volume": bench.volume, "handle": found["handle"]}
    table = bench.loop.result(bench.engine, "compare", pair)["table"]
    assert [row["title"] for row in table["rows"]] == ["FP32", "mixed", "liver"]


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


def test_an_export_gets_a_folder_of_its_own(bench: Bench, quantized: dict, tmp_path: Path) -> None:
    asked = {"handle": quantized["handle"], "format": "artifact", "folder": str(tmp_path)}
    first = bench.loop.result(bench.engine, "export", asked)
    second = bench.loop.result(bench.engine, "export", asked)
    assert first["folder"] != second["folder"]
    assert {path.name for path in tmp_path.iterdir()} == {Path(one["folder"]).name for one in (first, second)}
    assert "2.5 MB" in first["text"]


def test_a_quantized_file_is_a_model_like_others(bench: Bench, quantized: dict, tmp_path: Path) -> None:
    path = tmp_path / "mine.mq.safetensors"
    path.write_bytes(Path(quantized["handle"]).read_bytes())
    told = bench.loop.result(bench.engine, "add_weights", {"path": str(path)})["model"]
    assert (told["is_quantized"], told["bits"], told["task"]) == (True, 4, "box")
    listed = bench.loop.result(bench.engine, "models")["models"]
    assert listed[-1]["spec"] == str(path)
    sizes = bench.loop.result(bench.engine, "sizes", {"model": str(path)})["choices"]
    assert list(sizes) == ["4"] and sizes["4"]["measured"]
    error = bench.loop.error(bench.engine, "quantize", {"model": str(path), "volume": bench.volume})
    assert error["kind"] == "user" and "already" in error["message"]
    path.unlink()
    assert str(path) not in [one["spec"] for one in bench.loop.result(bench.engine, "models")["models"]]


def test_cancelling_is_heard_within_a_second(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "bits": 2, "slices": 8}
    answer = bench.loop.ask(bench.engine, "quantize", asked)
    bench.loop.wait(lambda: any("layer" in told["text"] for told in answer.progress))
    answer.request.cancel()
    assert bench.loop.wait(lambda: answer.done) < 2.0
    assert answer.error["kind"] == "cancelled"
    began = time.monotonic()
    bench.loop.result(bench.engine, "sizes", {"model": "embedded"})  # in the same lane
    assert time.monotonic() - began < 20.0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_quantized_model_outlives_the_process(bench: Bench, quantized: dict, masks: dict) -> None:
    starts = bench.engine.starts
    for process in bench.loop.processes:  # this engine's, and those that other tests have started
        process.kill()
    bench.loop.wait(lambda: not bench.engine.running, 20)
    found = bench.segment(quantized["handle"])["mask"]
    assert bench.engine.starts == starts + 1
    np.testing.assert_array_equal(bench.whole(found), bench.whole(masks["quantized"]))
    assert bench.loop.result(bench.engine, "compare", {**masks, "volume": bench.volume})["models"]


WRONG = ("no box", "a box elsewhere", "a box of nothing", "a model that is not there", "a lost file", "another grid",
         "holes", "four dimensions", "bits", "a path of nothing", "no download")  # fmt: skip


def _wrong(bench: Bench) -> dict[str, tuple[str, dict[str, Any], str]]:
    far = [{"name": "x", "corners": [[9000.0, 0.0, 0.0], [9001.0, 1.0, 1.0]]}]
    small = np.zeros((4, 5, 6), np.int16)
    holes = np.where(np.arange(120).reshape(4, 5, 6) == 7, np.nan, 1.0).astype(np.float32)
    segment = {"model": "embedded", "volume": bench.volume, "boxes": bench.boxes(), "runtime": "pytorch"}
    return {
        "no box": ("segment", {**segment, "boxes": []}, "needs a box"),
        "a box elsewhere": ("segment", {**segment, "boxes": far}, "outside the scan"),
        "a box of nothing": ("segment", {**segment, "boxes": [{"name": "x", "corners": []}]}, "no corners"),
        "a model that is not there": ("segment", {**segment, "model": "/no/model"}, "no file or folder"),
        "a lost file": ("segment", {**segment, "volume": {**bench.volume, "array": "lost.npy"}}, "cannot be read"),
        "another grid": ("segment", {**segment, "volume": bench.hand_over("small.npy", small)}, "outside the scan"),
        "holes": ("segment", {**segment, "volume": bench.hand_over("holes.npy", holes)}, "not finite"),
        "four dimensions": ("segment", {**segment, "volume": bench.hand_over("4d.npy", small[None])}, "three-dim"),
        "bits": ("quantize", {"model": "embedded", "volume": bench.volume, "bits": 9}, "2 to 8 bits"),
        "a path of nothing": ("add_weights", {"path": "/no/such/file"}, "nothing at"),
        "no download": ("download", {"model": "embedded"}, "cannot be fetched"),
    }


@pytest.mark.parametrize("case", WRONG)
def test_what_the_user_can_put_right_is_said_in_a_sentence(bench: Bench, case: str) -> None:
    method, params, words = _wrong(bench)[case]
    error = bench.loop.error(bench.engine, method, params)
    assert error["kind"] == "user" and words in error["message"]
    assert "log" not in error and error["message"].endswith(".")


def test_no_name_leads_out_of_the_folder(bench: Bench) -> None:
    volume = {**bench.volume, "array": "../volume.npy"}
    assert bench.loop.error(bench.engine, "quantize", {"model": "embedded", "volume": volume})["kind"] == "internal"
