"""What a comparison says, structure by structure and model by model."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from medquant.errors import Cancelled, UserError
from medquant.evaluation.compare import ModelFacts, compare, slices_that_differ_most
from medquant.evaluation.metrics import agreement
from medquant.imaging.volume import Volume

ORGANS = {1: "liver", 2: "spleen"}


@pytest.fixture
def fp32(make_segmentation, two_organs):
    return make_segmentation(
        two_organs, ORGANS, name="FP32", seconds=7.7, peak_memory_mb=900.0, stages={"network": 7.0}
    )


@pytest.fixture
def smaller(make_segmentation, two_organs):
    labels = two_organs.copy()
    labels[2] = 0  # the liver loses its first slice
    return make_segmentation(labels, ORGANS, name="W4", seconds=1.0)


def test_rows_hold_the_metrics_of_each_structure(fp32, smaller):
    comparison = compare([fp32, smaller])
    liver = next(row for row in comparison.rows_of("W4") if row.structure == "liver")
    expected = agreement(smaller.labels == 1, fp32.labels == 1, (3.0, 1.0, 1.0), 2.0)
    assert (liver.dsc_vs_fp32, liver.nsd_vs_fp32, liver.hd95_mm_vs_fp32) == (
        expected.dsc,
        expected.nsd,
        expected.hd95_mm,
    )
    lost = 22 * 20 * 3 / 1000
    assert liver.volume_change_ml == pytest.approx(-lost)
    assert liver.volume_change_percent == pytest.approx(-100 / 8)
    assert liver.dsc_vs_reference is None and comparison.summary[1].dsc_vs_reference is None


def test_fp32_agrees_with_itself(fp32, smaller):
    summary = compare([fp32, smaller]).summary[0]
    assert (summary.dsc_vs_fp32, summary.nsd_vs_fp32, summary.hd95_mm_vs_fp32) == (1.0, 1.0, 0.0)
    assert (summary.seconds, summary.peak_memory_mb, summary.stages) == (7.7, 900.0, {"network": 7.0})
    assert summary.volume_change_ml == 0.0


def test_summary_names_the_worst_structure_and_takes_the_mean(fp32, smaller):
    comparison = compare([fp32, smaller])
    summary, rows = comparison.summary[1], comparison.rows_of("W4")
    assert summary.worst_structure == "liver"
    assert summary.dsc_vs_fp32 == pytest.approx(np.mean([row.dsc_vs_fp32 for row in rows]))


def test_reference_is_matched_by_name_not_by_label(fp32, make_segmentation, two_organs):
    swapped = np.array([0, 2, 1], dtype=np.uint8)[two_organs]
    reference = make_segmentation(swapped, {1: "Spleen", 2: "Liver"}, name="reference")
    comparison = compare([fp32], reference=reference)
    assert all(row.dsc_vs_reference == 1.0 for row in comparison.rows)


def test_nameless_reference_is_matched_by_label(fp32, make_segmentation, two_organs):
    reference = make_segmentation(two_organs, {1: "label 1", 2: "Segment_2"})
    assert compare([fp32], reference=reference).summary[0].dsc_vs_reference == 1.0


def test_a_structure_unknown_to_the_reference_is_not_scored_against_it(fp32, make_segmentation, two_organs):
    reference = make_segmentation(np.where(two_organs == 1, 1, 0), {1: "liver"})
    comparison = compare([fp32], reference=reference)
    by_name = {row.structure: row for row in comparison.rows}
    assert by_name["spleen"].dsc_vs_reference is None and by_name["spleen"].hd95_mm_vs_reference is None
    assert comparison.not_in_reference == ("spleen",)
    assert comparison.summary[0].dsc_vs_reference == 1.0


def test_a_reference_of_other_structures_is_refused(fp32, make_segmentation, two_organs):
    with pytest.raises(UserError, match="none of the structures"):
        compare([fp32], reference=make_segmentation(two_organs, {1: "femur", 2: "tibia"}))


def test_a_structure_missing_in_one_model_counts_as_nothing(fp32, make_segmentation, two_organs):
    lost = make_segmentation(np.where(two_organs == 2, 0, two_organs), ORGANS, name="W2")
    comparison = compare([fp32, lost])
    spleen = next(row for row in comparison.rows_of("W2") if row.structure == "spleen")
    assert (spleen.dsc_vs_fp32, spleen.nsd_vs_fp32, spleen.hd95_mm_vs_fp32) == (0.0, 0.0, math.inf)
    assert spleen.volume_ml == 0.0 and spleen.volume_change_percent == -100.0
    summary = comparison.summary[1]
    assert summary.missed_vs_fp32 == 1 and summary.hd95_mm_vs_fp32 == 0.0 and summary.dsc_vs_fp32 == 0.5


def test_a_structure_declared_by_one_model_only_is_still_compared(fp32, make_segmentation, two_organs):
    more = make_segmentation(np.where(two_organs == 2, 3, two_organs), {1: "liver", 3: "stomach"}, name="W2")
    comparison = compare([fp32, more])
    assert comparison.structures == ("liver", "spleen", "stomach")
    stomach = next(row for row in comparison.rows_of("W2") if row.structure == "stomach")
    assert stomach.dsc_vs_fp32 == 0.0 and stomach.volume_change_percent is None


def test_two_empty_segmentations_agree(make_segmentation):
    empty = make_segmentation(np.zeros((3, 8, 8), np.uint8), ORGANS, name="FP32")
    comparison = compare([empty, replace(empty, model_name="W4")], reference=empty)
    for row in comparison.rows:
        assert (row.dsc_vs_fp32, row.nsd_vs_fp32, row.hd95_mm_vs_fp32) == (1.0, 1.0, 0.0)
        assert (row.dsc_vs_reference, row.volume_ml, row.volume_change_percent) == (1.0, 0.0, 0.0)
    assert comparison.summary[1].dsc_vs_fp32 == 1.0


def test_an_absent_structure_does_not_flatter_the_mean(fp32, smaller):
    names = {**ORGANS, 7: "pancreas"}
    wide = [
        replace(s, structures=(*s.structures, replace(s.structures[0], label=7, name=names[7])))
        for s in (fp32, smaller)
    ]
    assert compare(wide).summary[1].dsc_vs_fp32 == compare([fp32, smaller]).summary[1].dsc_vs_fp32


def test_other_grids_are_refused(fp32, smaller, make_segmentation, two_organs):
    moved = smaller.volume.affine.copy()
    moved[0, 3] += 5.0
    elsewhere = replace(smaller, volume=Volume(smaller.volume.array, moved))
    cropped = make_segmentation(two_organs[1:], ORGANS)
    for other in (elsewhere, cropped):
        with pytest.raises(UserError, match="different grids"):
            compare([fp32, other])
        with pytest.raises(UserError, match="different grids"):
            compare([fp32], reference=other)


def test_nothing_to_compare_is_refused(fp32):
    with pytest.raises(UserError, match="FP32"):
        compare([])
    with pytest.raises(UserError, match="facts"):
        compare([fp32], facts=[])


def test_models_of_one_name_stay_apart(fp32):
    assert [m.name for m in compare([fp32, fp32]).summary] == ["FP32", "FP32 (2)"]


def test_progress_and_cancel(fp32, smaller):
    events = []
    compare([fp32, smaller], progress=events.append)
    assert events[-1].fraction == 1.0 and "spleen" in " ".join(event.message for event in events)
    with pytest.raises(Cancelled):
        compare([fp32, smaller], cancelled=lambda: True)


def test_the_masks_stay_untouched(fp32, smaller):
    before = [s.labels.copy() for s in (fp32, smaller)]
    compare([fp32, smaller], reference=fp32)
    assert all(np.array_equal(a, b.labels) for a, b in zip(before, (fp32, smaller), strict=True))


# Files


def test_csv_and_json_hold_the_same_numbers(fp32, smaller, tmp_path):
    facts = [
        ModelFacts(weight_bits=32, effective_bits=32.0, bytes_on_disk=375_000_000, device="CPU"),
        ModelFacts(weight_bits=4, effective_bits=4.31, bytes_on_disk=52_000_000, simulated=True, device="CPU"),
    ]
    comparison = compare([fp32, smaller], reference=fp32, facts=facts)
    comparison.write_json(tmp_path / "out" / "comparison.json")
    comparison.write_csv(tmp_path / "out" / "comparison.csv")
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    with (tmp_path / "out" / "comparison.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(data["structures"]) + len(data["models"])
    written = {(line["model"], line["structure"]): line for line in lines}
    expected = [((row["model"], row["structure"]), row) for row in data["structures"]]
    expected += [((model["name"], "(mean)"), model) for model in data["models"]]
    for key, numbers in expected:
        for column, value in numbers.items():
            if column in written[key]:
                assert written[key][column] == ("" if value is None else str(value)), (key, column)
    assert data["models"][1]["effective_bits"] == 4.31
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.json"]


def test_an_infinite_distance_is_null_in_json(fp32, make_segmentation, two_organs, tmp_path):
    lost = make_segmentation(np.where(two_organs == 2, 0, two_organs), ORGANS, name="W2")
    compare([fp32, lost]).write_json(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    assert json.loads(text)["structures"][-1]["hd95_mm_vs_fp32"] is None


# Slices


def test_slices_that_differ_most_come_first(fp32):
    labels = fp32.labels.copy()
    labels[5, 10:20, 10:20] = 0
    labels[7, 10:14, 10:14] = 2
    labels[3, 10:12, 10:12] = 0
    other = replace(fp32, labels=labels)
    assert slices_that_differ_most(fp32, other, 3, 0) == (5, 7, 3)
    assert slices_that_differ_most(fp32, other, 2) == (5, 7)
    assert set(slices_that_differ_most(fp32, other, 2, 1)) <= set(range(10, 20))


def test_slices_can_be_kept_apart(fp32):
    labels = fp32.labels.copy()
    labels[4, 10:20, 10:20] = labels[5, 10:20, 10:21] = labels[8, 10:12, 10:12] = 0
    assert slices_that_differ_most(fp32, replace(fp32, labels=labels), 2, 0, apart_mm=9.0) == (5, 8)


def test_without_a_difference_the_fullest_slices_are_shown(fp32):
    assert set(slices_that_differ_most(fp32, fp32, 3, 0)) <= set(range(4, 9))
    assert slices_that_differ_most(fp32, fp32, 99, 0)[-1] in (0, 1, 10, 11)


def test_slices_of_other_labels_for_one_name_do_not_differ(fp32):
    swapped = replace(
        fp32,
        labels=np.array([0, 2, 1], dtype=np.uint8)[fp32.labels],
        structures=tuple(replace(s, label=3 - s.label) for s in fp32.structures),
    )
    changed = swapped.labels.copy()
    changed[6, 0, 0] = 1
    assert slices_that_differ_most(fp32, replace(swapped, labels=changed), 1, 0) == (6,)
