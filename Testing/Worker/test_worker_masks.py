"""Masks by the real worker on a real scan, however that lies, and what is told where a request is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from event_loop import Answer, needs_posix
from real_scan import LIVER, SLICES, Bench


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


@needs_posix
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
