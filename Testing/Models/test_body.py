"""Where the body is, and what is chosen of it to calibrate with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medquant.errors import Cancelled, UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.body import (
    body_mask,
    calibration_region,
    choose_patches,
    choose_slices,
    evenly,
    is_hounsfield,
    require_usable,
)
from medquant.progress import Progress

MakeVolume = Callable[..., Volume]


def patient(modality: str = "CT") -> tuple[Volume, np.ndarray]:
    """A cylinder with lungs above a table, and the cylinder's mask; air only in the first and last slices."""
    k, j, i = np.meshgrid(np.arange(12), np.arange(60), np.arange(70), indexing="ij")
    body = (((j - 25) / 18) ** 2 + ((i - 35) / 25) ** 2 < 1) & (k > 2) & (k < 10)
    lung = (np.abs(j - 25) < 6) & (np.abs(np.abs(i - 35) - 12) < 5)
    table = (j > 48) & (j < 52)
    rng = np.random.default_rng(0)
    if modality == "CT":
        array = np.where(body & ~lung, 40, np.where(table, -100, -1000)) + rng.normal(0, 20, body.shape)
    else:
        array = np.where(body & ~lung, 400, 5) + rng.normal(0, 4, body.shape)
    return Volume(np.rint(array).astype(np.int16), np.eye(4), modality=modality), body


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_body_is_found_without_table_and_with_lungs(modality: str) -> None:
    volume, body = patient(modality)
    found = body_mask(volume)[3:10]
    expected = body[3:10]
    overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert overlap > 0.97
    assert not found[:, 46:].any()


def test_slices_of_the_body_are_spread_evenly() -> None:
    volume, _ = patient()
    mask = body_mask(volume)
    mask[:3], mask[10:] = False, False
    assert choose_slices(volume, 0, CalibrationSelection(count=3), mask) == [4, 6, 8]
    assert choose_slices(volume, 0, CalibrationSelection(count=99), mask) == list(range(3, 10))
    assert choose_slices(volume, 0, CalibrationSelection(count=12, where="even"), mask) == list(range(12))
    chosen = choose_slices(volume, 0, CalibrationSelection(count=9, where="range", first=1, last=4), mask)
    assert chosen == [1, 2, 3, 4]


@given(size=st.integers(1, 200), count=st.integers(1, 50))
def test_even_choices_are_different_ascending_and_spread(size: int, count: int) -> None:
    chosen = evenly(np.arange(size) * 3, count)
    assert len(chosen) == min(size, count) and chosen == sorted(set(chosen))
    assert all(c % 3 == 0 and 0 <= c < 3 * size for c in chosen)
    if 1 < len(chosen) < size:
        steps = np.diff(chosen) / 3
        assert steps.max() - steps.min() <= 1


@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    patch=st.tuples(*[st.integers(1, 25)] * 3),
    count=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_patches_lie_inside_and_touch_the_region(
    shape: tuple[int, int, int], patch: tuple[int, int, int], count: int, seed: int
) -> None:
    region = np.random.default_rng(seed).random(shape) < 0.2
    region[0, 0, 0] = True
    corners = choose_patches(region, patch, count=count, seed=seed)
    assert corners == choose_patches(region, patch, count=count, seed=seed)
    assert 1 <= len(corners) <= count
    for corner in corners:
        window = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        assert all(c >= 0 and (c + p <= n or c == 0) for c, p, n in zip(corner, patch, shape, strict=True))
        assert region[window].any()


def test_regions_follow_the_selection() -> None:
    volume, _ = patient()
    assert calibration_region(volume, CalibrationSelection(where="even")).all()
    inside = calibration_region(volume, CalibrationSelection(where="range", first=4, last=5))
    assert inside[4:6].any() and not inside[:4].any() and not inside[6:].any()
    np.testing.assert_array_equal(inside[4:6], body_mask(volume)[4:6])
    quiet = volume.array.copy()
    quiet[:2] = -1000
    with pytest.raises(UserError, match="one grey value only"):
        calibration_region(volume.with_array(quiet), CalibrationSelection(where="range", first=0, last=1))


def test_stop_is_heard_between_slices() -> None:
    volume, _ = patient()
    asked: list[int] = []

    def in_the_third_slice() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    with pytest.raises(Cancelled):
        calibration_region(volume, CalibrationSelection(), Progress(cancelled=in_the_third_slice))
    assert len(asked) == 3


def test_unusable_volumes_are_explained() -> None:
    volume, _ = patient()
    nan = volume.array.astype(np.float32)
    nan[0, 0, :2] = np.nan
    with pytest.raises(UserError, match="2 voxels that are not numbers"):
        require_usable(volume.with_array(nan))
    with pytest.raises(UserError, match="same value"):
        require_usable(volume.with_array(np.zeros_like(nan)))
    with pytest.raises(UserError, match="no voxels"):
        require_usable(Volume(np.zeros((0, 4, 4)), np.eye(4)))
    require_usable(volume)


def test_hounsfield_units_are_known_by_modality_or_by_value(blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    assert is_hounsfield(volume)
    assert is_hounsfield(Volume(volume.array, volume.affine))
    assert not is_hounsfield(Volume(volume.array, volume.affine, modality="MR"))
    assert not is_hounsfield(Volume(np.abs(volume.array), volume.affine))
