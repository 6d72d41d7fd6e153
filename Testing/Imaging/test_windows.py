"""Intensity windows against the arithmetic that MedSAM's authors publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medquant.errors import UserError
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.imaging.windows import IntensityWindow, ct_window, guess_modality, percentile_window, window_of


def _as_published(array: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Clip, stretch to 0..255 and truncate, in double precision."""
    clipped = np.clip(array.astype(np.float64), lower, upper)
    return ((clipped - lower) / (upper - lower) * 255.0).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(level=st.integers(-600, 400), width=st.integers(1, 2000), seed=st.integers(0, 99))
def test_ct_window(level: int, width: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(-1024, 3000, (3, 9, 9)).astype(np.int16)
    kept = array.copy()
    shown = ct_window(level, width).apply(array)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, _as_published(array, level - width / 2, level + width / 2))
    assert np.array_equal(array, kept)
    assert np.array_equal(ct_window(level, width).apply(array[1]), shown[1]), "a slice alone is shown the same"


def test_soft_tissue_by_hand() -> None:
    array = np.array([[-1000, -160, -60, 40, 140, 240, 900]])
    assert ct_window().apply(array).tolist() == [[0, 0, 63, 127, 191, 255, 255]]


def test_mr_uses_the_percentiles_of_the_foreground(rng: np.random.Generator) -> None:
    array = rng.gamma(2.0, 200.0, (4, 30, 30)).astype(np.float32)
    array[:, :10] = 0
    window = percentile_window(array)
    lower, upper = np.percentile(array[array > 0], (0.5, 99.5))
    assert (window.lower, window.upper) == (pytest.approx(lower), pytest.approx(upper))
    expected = _as_published(array, window.lower, window.upper)
    expected[array == 0] = 0
    assert np.array_equal(window.apply(array), expected)


def test_zero_stays_zero_where_values_are_negative() -> None:
    window = IntensityWindow(-10, 10, keep_zero=True)
    assert window.apply(np.array([-10.0, 0.0, 5.0, 10.0])).tolist() == [0, 0, 191, 255]


def test_constant_and_empty_images_give_black() -> None:
    for value in (0, 7, -3):
        array = np.full((2, 3, 4), value, np.int16)
        assert not percentile_window(array).apply(array).any()


def test_choice_of_window() -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert window_of(Volume(array, np.eye(4), modality="CT")) == ct_window(40, 400)
    assert window_of(Volume(array, np.eye(4), modality="MR")) == percentile_window(array)
    assert window_of(Volume(array, np.eye(4)), 50, 350) == ct_window(50, 350)
    hounsfield = np.where(array < 30, -1000, 3 * array)
    assert window_of(Volume(hounsfield, np.eye(4))) == ct_window(40, 400)
    assert window_of(Volume(hounsfield, np.eye(4), modality="MR")).keep_zero


def test_windows_that_show_nothing_are_refused() -> None:
    for level, width in ((40, 0), (40, -5), (float("nan"), 400), (40, float("inf"))):
        with pytest.raises(UserError, match="width above 0"):
            ct_window(level, width)
    with pytest.raises(UserError, match="both or neither"):
        window_of(Volume(np.zeros((1, 2, 2)), np.eye(4)), level=40)


def test_modality_is_guessed_only_where_it_is_safe(rng: np.random.Generator) -> None:
    body = rng.normal(40, 60, 20_000)
    assert guess_modality(np.concatenate([body, np.full(20_000, -1000.0)])) == "CT"
    assert guess_modality(np.abs(body) * 10) == "", "MR: no negative values"
    assert guess_modality(rng.normal(0, 1, 1000)) == "", "standardised"
    assert guess_modality(rng.integers(-4096, 4096, 10_000)) == "", "phase image"


@pytest.mark.data
def test_real_mr_fills_the_range(test_data: Path) -> None:
    volume = read_volume(test_data / "mr_small" / "mr_totalseg.nii.gz")
    shown = window_of(volume).apply(volume.array)
    assert (shown.min(), shown.max()) == (0, 255)
    assert 30 < shown[volume.array > 0].mean() < 200
