"""Numbers as people read them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from medquant.deploy.runtime import RUNTIMES
from medquant.evaluation import wording
from medquant.evaluation.compare import ModelFacts, compare


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.994, ".994"), (1.0, "1.000"), (0.99996, ">.999"), (0.0, ".000"), (0.0004, ".000"), (None, "\u2013")],
)
def test_scores_have_three_digits_and_never_round_up_to_one(value, text):
    assert wording.score(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, "+0.4"), (-1.25, "\u22121.2"), (0.0, "0.0"), (-0.04, "0.0"), (0.049, "0.0")]
)
def test_changes_carry_a_sign_unless_they_are_none(value, text):
    assert wording.change(value) == text


def test_distances_and_volumes():
    assert wording.distance(2.34) == "2.3"
    assert wording.distance(math.inf) == wording.distance(None) == "\u2013"
    assert wording.volume(148.21) == "148.2"


@pytest.mark.parametrize(
    ("count", "text"),
    [(375_021_000, "375 MB"), (7_680_000, "7.7 MB"), (640_000, "640 kB"), (1_420_000_000, "1.4 GB"), (12, "1 kB")],
)
def test_sizes(count, text):
    assert wording.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.018, "1.02 s"), (12.34, "12.3 s"), (125.0, "2:05 min"), (0.0, "0.00 s"), (0.028, "28 ms"), (0.0042, "4.2 ms")],
)
def test_durations(value, text):
    assert wording.seconds(value) == text


def test_bits_and_memory():
    assert (wording.bits(4.28), wording.bits(32.0), wording.bits(None)) == ("4.3", "32", "\u2013")
    assert (wording.memory(905.2), wording.memory(1840.0)) == ("905 MB", "1.8 GB")


def _models(make_segmentation, labels: np.ndarray, facts: list[ModelFacts]):
    fp32 = make_segmentation(labels, {1: "liver", 2: "spleen"})
    return compare([fp32] * len(facts), facts=facts).summary


def test_the_smallest_goes_by_the_file_and_only_without_files_by_bits(make_segmentation, two_organs):
    def smallest(*sizes: tuple[float | None, int | None]) -> str | None:
        facts = [ModelFacts(f"m{n}", effective_bits=bits, bytes_on_disk=size) for n, (bits, size) in enumerate(sizes)]
        found = wording.smallest_as_fp32(_models(make_segmentation, two_organs, facts)[1:])
        return found and found.name

    fp32 = (32.0, 800)
    assert smallest(fp32, (8.2, 200), (4.2, 210)) == "m1"
    assert smallest(fp32, (8.2, None), (4.2, 210)) == "m2"
    assert smallest(fp32, (None, None), (4.2, 210)) is None
    assert smallest(fp32) is None


def test_what_a_model_saves_is_told_against_fp32(make_segmentation, two_organs):
    facts = [ModelFacts("FP32", bytes_on_disk=7_700_000, bytes_fp32=15_340_000), ModelFacts("W4", bytes_on_disk=5)]
    fp32, unknown = _models(make_segmentation, two_organs, facts)
    assert wording.saving(fp32) == "7.7 MB, 2.0 times smaller than in FP32 (15 MB)"
    assert wording.saving(unknown) == ""


def test_a_loss_names_the_structure_that_lost(make_segmentation, two_organs):
    _, model = _models(make_segmentation, two_organs, [ModelFacts("FP32"), ModelFacts("W4")])
    assert wording.judged(model) == "masks as FP32"
    assert wording.keeps_masks(model)
    lost = replace(model, verdict=wording.SMALL_LOSS, verdict_reason="spleen, Dice .962")
    assert wording.judged(lost) == "small loss (spleen, Dice .962)"
    assert not wording.keeps_masks(lost)


def test_sizes_go_by_one_yardstick(make_segmentation, two_organs):
    """A file that stores FP32 weights in 16 bits does not make FP32 half as large."""
    facts = [
        ModelFacts("FP32", 32, bytes_on_disk=7_700_000, bytes_fp32=15_340_000),
        ModelFacts("W4", 4, bytes_on_disk=2_500_000, bytes_fp32=15_340_000),
        ModelFacts("loaded", 32, bytes_on_disk=5_000_000),
    ]
    told = [wording.model_size(model) for model in _models(make_segmentation, two_organs, facts)]
    assert told == ["15 MB", "2.5 MB", "5.0 MB"]


def test_every_runtime_has_one_name():
    assert RUNTIMES.keys() == wording.RUNTIMES.keys()
    assert wording.runtime("onnxruntime") == "ONNX Runtime" and wording.runtime("another") == "another"


def test_short_names(make_segmentation, two_organs):
    def short(*facts: ModelFacts) -> list[str]:
        return list(wording.short_names(_models(make_segmentation, two_organs, list(facts))).values())

    assert short(ModelFacts("net FP32", 32), ModelFacts("net W4", 4)) == ["FP32", "4-bit"]
    assert short(ModelFacts("net FP32", 32), ModelFacts("net W4", 4), ModelFacts("net GPTQ", 4)) == [
        "FP32",
        "W4",
        "GPTQ",
    ]
    assert short(ModelFacts("net"), ModelFacts("net W4")) == ["net", "net W4"]
    assert short(ModelFacts("net FP32", 32), ModelFacts("net mixed")) == ["FP32", "2 to 8 bits"]
