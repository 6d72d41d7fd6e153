"""The words that a decision is made by: the worst of everything, and where to look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medquant.evaluation.compare import compare
from medquant.evaluation.slices import SliceAgreement, agreement_by_slice
from medquant.evaluation.verdict import Agreed, Verdict, describe, judge
from medquant.evaluation.wording import AS_FP32, SMALL_LOSS, VISIBLE_LOSS

ALIKE = Agreed(dsc=0.995, nsd=1.0, hd95_mm=0.7, volume_change_percent=0.1, voxel_mm=1.0)
SLICE = SliceAgreement(index=38, only_first=4, only_second=2, missing=0.01, section=1.0, patch_mm=0.0)


@pytest.fixture
def body() -> np.ndarray:
    """Labels (60, 120, 120) of one structure: a large part, and beside it a smaller one that touches nothing."""
    labels = np.zeros((60, 120, 120), np.uint8)
    labels[5:55, 20:100, 10:80] = 1
    labels[30:50, 40:80, 90:110] = 1
    return labels


def judged(make_segmentation, before: np.ndarray, after: np.ndarray, names: dict[int, str] | None = None, **how):
    names = names or {1: "liver"}
    pair = [make_segmentation(labels, names, **how) for labels in (before, after)]
    return compare([pair[0], replace(pair[1], model_name="W4")]).summary[1]


@pytest.mark.parametrize(
    ("changed", "words", "reason"),
    [
        ({}, AS_FP32, ""),
        ({"dsc": 0.97}, SMALL_LOSS, "Dice .970"),
        ({"dsc": 0.94}, VISIBLE_LOSS, "Dice .940"),
        ({"nsd": 0.93}, SMALL_LOSS, "NSD .930"),
        ({"nsd": 0.89}, VISIBLE_LOSS, "NSD .890"),
        ({"hd95_mm": 3.2}, SMALL_LOSS, "HD95 3.2 mm"),
        ({"hd95_mm": 5.1}, VISIBLE_LOSS, "HD95 5.1 mm"),
        ({"hd95_mm": 5.0, "voxel_mm": 5.0}, AS_FP32, ""),
        ({"hd95_mm": 3.0, "tolerance_mm": 3.0}, AS_FP32, ""),
        ({"volume_change_percent": -2.4}, SMALL_LOSS, "volume \N{MINUS SIGN}2.4 %"),
        ({"volume_change_percent": 6.0}, VISIBLE_LOSS, "volume +6.0 %"),
        ({"slices": (SLICE,)}, AS_FP32, ""),
        ({"slices": (replace(SLICE, missing=0.6, only_first=50),)}, VISIBLE_LOSS, "slice 39: 50 voxels only in FP32"),
        ({"slices": (replace(SLICE, missing=0.6, section=0.1),)}, AS_FP32, ""),
        ({"slices": (replace(SLICE, patch_mm=5.0, only_second=9),)}, SMALL_LOSS, "slice 39: 9 voxels not in FP32"),
        ({"slices": (replace(SLICE, patch_mm=10.0, section=0.1),)}, VISIBLE_LOSS, "slice 39: 4 voxels only in FP32"),
    ],
)
def test_each_measure_decides_where_it_is_the_worst(changed: dict, words: str, reason: str) -> None:
    found = judge(replace(ALIKE, **changed))
    assert (found.words, found.reason) == (words, reason)


def test_the_worst_measure_decides_and_a_slice_is_named_before_a_number() -> None:
    both = replace(ALIKE, dsc=0.97, hd95_mm=9.0)
    assert judge(both).reason == "HD95 9.0 mm"
    lost = replace(both, slices=(SLICE, replace(SLICE, index=7, missing=0.9, only_first=1, only_second=0)))
    assert judge(lost) == Verdict(VISIBLE_LOSS, "slice 8: 1 voxel only in FP32", 7)


def test_a_blob_lost_in_one_slice_is_visible_though_dice_and_nsd_are_high(make_segmentation, body) -> None:
    after = body.copy()
    after[38, :, 85:] = 0
    found = judged(make_segmentation, body, after)
    assert found.dsc_vs_fp32 > 0.99
    assert found.verdict == VISIBLE_LOSS
    assert found.verdict_reason == "liver, slice 39: 800 voxels only in FP32"
    assert found.verdict_slice == 38


def test_a_blob_that_touches_the_rest_is_seen_as_well(make_segmentation, body) -> None:
    body[30:50, 40:80, 80:90] = 1
    after = body.copy()
    after[38, :, 81:] = 0
    assert judged(make_segmentation, body, after).verdict_reason == "liver, slice 39: 1160 voxels only in FP32"


def test_a_slice_that_is_wholly_absent_or_invented_is_named(make_segmentation, body) -> None:
    after = body.copy()
    after[20] = 0
    assert judged(make_segmentation, body, after).verdict_reason.startswith("liver, slice 21: 5600 voxels only in FP32")
    assert judged(make_segmentation, after, body).verdict_reason.startswith("liver, slice 21: 5600 voxels not in FP32")


def test_a_rim_of_one_voxel_in_some_slices_is_no_loss(make_segmentation, body) -> None:
    after = body.copy()
    after[10:13, 20, 10:80] = 0
    found = judged(make_segmentation, body, after)
    assert (found.verdict, found.verdict_reason) == (AS_FP32, "")


def test_a_tip_that_ends_a_slice_earlier_is_no_loss(make_segmentation, body) -> None:
    body[55, 50:54, 30:34] = 1
    after = body.copy()
    after[55] = 0
    assert judged(make_segmentation, body, after).verdict == AS_FP32


def test_a_tiny_structure_that_loses_a_slice_or_itself_is_a_visible_loss(make_segmentation) -> None:
    tiny = np.zeros((9, 30, 30), np.uint8)
    tiny[3:6, 10:13, 10:13] = 1
    shorter, gone = tiny.copy(), np.zeros_like(tiny)
    shorter[5] = 0
    names = {1: "nodule"}
    assert judged(make_segmentation, tiny, shorter, names).verdict_reason == "nodule, slice 6: 9 voxels only in FP32"
    assert judged(make_segmentation, tiny, gone, names).verdict_reason == "nodule, only in FP32"
    assert judged(make_segmentation, gone, tiny, names).verdict_reason == "nodule, not in FP32"


def test_empty_masks_agree(make_segmentation) -> None:
    empty = np.zeros((4, 8, 8), np.uint8)
    found = judged(make_segmentation, empty, empty)
    assert (found.verdict, found.verdict_reason, found.verdict_slice) == (AS_FP32, "", None)


def test_of_several_structures_the_worst_is_named(make_segmentation, two_organs) -> None:
    after = two_organs.copy()
    after[2][after[2] == 1] = 0  # the liver loses a slice of eight
    after[6:8, 12:22, 30:40] = 0  # the spleen two of five
    names = {1: "liver", 2: "spleen"}
    found = judged(make_segmentation, two_organs, after, names)
    assert (found.verdict, found.verdict_slice) == (VISIBLE_LOSS, 6)
    assert found.verdict_reason == "spleen, slice 7: 100 voxels only in FP32", "of the two it has lost more"
    only_liver = np.where(two_organs == 2, 2, after)
    assert judged(make_segmentation, two_organs, only_liver, names).verdict_reason.startswith("liver, slice 3: 440")
    rim = two_organs.copy()
    rim[:, 8, 4:24] = 0  # the liver has lost a little, the spleen nothing
    assert judged(make_segmentation, two_organs, rim, names).verdict_reason.startswith("liver, ")


def test_large_voxels_do_not_make_a_rim_a_patch(make_segmentation) -> None:
    """A scan of 6 mm in the plane: one voxel is wider than the patch that would count."""
    before = np.zeros((40, 60, 60), np.uint8)
    before[5:35, 10:50, 10:50] = 1
    after = before.copy()
    after[10, 10, 10:50] = 0
    assert judged(make_segmentation, before, after, spacing=(6.0, 6.0, 6.0)).verdict == AS_FP32


def test_slices_run_along_the_axis_that_is_asked_for(body) -> None:
    after = body.copy()
    after[:, :, 100] = 0
    (found,) = agreement_by_slice(body > 0, after > 0, (3.0, 1.0, 1.0), 2, (5.0, 10.0))
    assert (found.index, found.missing, found.patch_mm) == (100, 1.0, 10.0)
    assert (found.only_first, found.only_second) == (20 * 40, 0)
    assert found.section == pytest.approx(800 / (50 * 80))
    assert len(agreement_by_slice(body > 0, after > 0, (3.0, 1.0, 1.0), 0, (5.0, 10.0))) == 20


def test_the_rule_is_told_with_its_numbers() -> None:
    told = describe()
    for number in (".980", ".950", ".900", "2 mm", "5 mm", "10 mm", "2 %", "5 %"):
        assert number in told
