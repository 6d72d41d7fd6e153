"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from medquant.evaluation import wording


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
    ("value", "text"), [(1.018, "1.02 s"), (12.34, "12.3 s"), (125.0, "2:05 min"), (0.0, "0.00 s")]
)
def test_durations(value, text):
    assert wording.seconds(value) == text


def test_bits_and_memory():
    assert (wording.bits(4.28), wording.bits(32.0), wording.bits(None)) == ("4.3", "32", "\u2013")
    assert (wording.memory(905.2), wording.memory(1840.0)) == ("905 MB", "1.8 GB")
