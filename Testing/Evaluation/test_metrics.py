"""Metrics on shapes whose distances are known, as properties, and against MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_opening

from medquant.errors import UserError
from medquant.evaluation.metrics import Agreement, agreement, dice, surface
from medquant.imaging.labels import read_labels
from medquant.imaging.reading import read_volume


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius_mm: float, spacing: tuple[float, ...]):
    grid = np.meshgrid(*(np.arange(n) * d for n, d in zip(shape, spacing, strict=True)), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius_mm**2


masks = arrays(np.bool_, (5, 6, 7), elements=st.booleans())
spacings = st.tuples(*[st.floats(0.3, 6.0)] * 3)


# Analytic shapes


def test_shifted_slab_has_the_distance_of_its_shift():
    a, b = np.zeros((2, 20, 60, 60), dtype=bool)
    a[5:9] = True
    b[7:11] = True  # two voxels of 2.5 mm along the first axis
    spacing = (2.5, 0.7, 0.7)
    result = agreement(a, b, spacing, tolerance_mm=4.9)
    assert result.dsc == 0.5
    assert result.hd95_mm == pytest.approx(5.0)
    # Outer faces are 5 mm off, inner faces 2.5 mm, and the rims at the border of the array less.
    assert agreement(a, b, spacing, tolerance_mm=5.0).nsd == 1.0
    assert result.nsd == pytest.approx(0.5, abs=0.05)
    assert agreement(a, b, spacing, tolerance_mm=2.4).nsd < 0.25


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shift_along_each_axis_of_an_anisotropic_grid(axis: int):
    spacing = (4.0, 0.5, 1.25)
    a = np.zeros((14, 40, 40), dtype=bool)
    a[5:8, 10:30, 10:30] = True
    b = np.roll(a, 2, axis=axis)
    from_voxels = 2 * spacing[axis]
    assert agreement(a, b, spacing).hd95_mm <= from_voxels + 1e-9
    assert agreement(a, b, spacing, from_voxels).nsd == 1.0
    assert agreement(a, b, spacing, 0.99 * from_voxels).nsd < 1.0


def test_concentric_balls_are_apart_by_the_difference_of_their_radii():
    spacing, shape, centre = (1.5, 0.75, 0.75), (40, 80, 80), (30.0, 30.0, 30.0)
    small, large = (ball(shape, centre, radius, spacing) for radius in (18.0, 23.0))
    result = agreement(small, large, spacing, tolerance_mm=2.0)
    assert result.hd95_mm == pytest.approx(5.0, abs=0.8)  # about a voxel
    assert result.dsc == pytest.approx(2 * 18**3 / (18**3 + 23**3), abs=0.005)
    assert result.nsd == 0.0
    assert agreement(small, large, spacing, 6.5).nsd == 1.0


def test_percentile_passes_over_a_few_far_voxels():
    a = np.zeros((30, 30, 30), dtype=bool)
    a[5:20, 5:20, 5:20] = True
    b = a.copy()
    b[28, 28, 28] = True
    assert agreement(a, b, (1, 1, 1)).hd95_mm == 0.0
    assert 0.99 < agreement(a, b, (1, 1, 1), 2.0).nsd < 1.0


def test_a_single_slice_is_compared_as_a_plane():
    a = np.zeros((1, 40, 40), dtype=bool)
    a[0, 10:30, 10:30] = True
    assert np.count_nonzero(surface(a)) == 4 * 19
    b = np.roll(a, 3, axis=2)
    flat, thick = agreement(a, b, (5, 1, 1), 1.0), agreement(np.pad(a, ((1, 1), (0, 0), (0, 0))), *_padded(b))
    assert flat.hd95_mm == 3.0
    assert flat.nsd < thick.nsd  # in a scan of several slices the whole flat mask is surface


def _padded(mask: np.ndarray):
    return np.pad(mask, ((1, 1), (0, 0), (0, 0))), (5, 1, 1), 1.0


# Empty masks


def test_empty_masks_follow_the_definition():
    empty, full = np.zeros((4, 5, 6), dtype=bool), np.ones((4, 5, 6), dtype=bool)
    both = agreement(empty, empty, (1, 1, 1))
    assert (both.dsc, both.nsd, both.hd95_mm) == (1.0, 1.0, 0.0)
    for pair in ((empty, full), (full, empty)):
        one = agreement(*pair, (1, 1, 1))
        assert (one.dsc, one.nsd, one.hd95_mm) == (0.0, 0.0, math.inf)
    assert dice(empty, empty) == 1.0


# Properties


@settings(max_examples=60, deadline=None)
@given(masks, masks, spacings, st.floats(0, 10))
def test_symmetric_and_bounded_and_never_nan(a, b, spacing, tolerance):
    forward, backward = agreement(a, b, spacing, tolerance), agreement(b, a, spacing, tolerance)
    assert forward.dsc == backward.dsc and forward.nsd == pytest.approx(backward.nsd)
    assert forward.hd95_mm == backward.hd95_mm
    assert 0 <= forward.dsc <= 1 and 0 <= forward.nsd <= 1 and forward.hd95_mm >= 0
    diagonal = math.dist((0, 0, 0), [(n - 1) * d for n, d in zip(a.shape, spacing, strict=True)])
    assert forward.hd95_mm <= diagonal + 1e-9 or a.any() != b.any()


@settings(max_examples=40, deadline=None)
@given(masks, spacings)
def test_a_mask_agrees_with_itself(a, spacing):
    result = agreement(a, a.copy(), spacing, 0.0)
    assert (result.dsc, result.nsd, result.hd95_mm) == (1.0, 1.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(masks, masks, spacings, st.tuples(*[st.integers(0, 4)] * 3))
def test_moving_both_masks_changes_nothing(a, b, spacing, shift):
    def moved(mask, by):
        return np.pad(mask, [(1 + s, 6 - s) for s in by])

    here, there = (agreement(moved(a, by), moved(b, by), spacing, 2.0) for by in ((0, 0, 0), shift))
    assert here.dsc == there.dsc and here.nsd == there.nsd
    assert here.hd95_mm == pytest.approx(there.hd95_mm) or here.hd95_mm == there.hd95_mm


@settings(max_examples=40, deadline=None)
@given(masks, masks, spacings, st.floats(0.5, 4))
def test_distances_scale_with_the_spacing(a, b, spacing, factor):
    one, scaled = agreement(a, b, spacing, 1.7), agreement(a, b, [factor * d for d in spacing], 1.7 * factor)
    assert one.dsc == scaled.dsc
    assert scaled.nsd == pytest.approx(one.nsd, abs=1e-6) or 1.7 in _reachable(spacing)
    assert one.hd95_mm * factor == pytest.approx(scaled.hd95_mm) or one.hd95_mm == scaled.hd95_mm


def _reachable(spacing) -> set[float]:
    """Distances so near the tolerance that rounding decides."""
    steps = np.array(np.meshgrid(*[np.arange(7)] * 3)).reshape(3, -1).T * spacing
    lengths = np.linalg.norm(steps, axis=1)
    return {1.7} if np.any(np.abs(lengths - 1.7) < 1e-4) else set()


@settings(max_examples=30, deadline=None)
@given(masks, masks, spacings, st.floats(0, 5), st.floats(0, 5))
def test_a_wider_tolerance_never_lowers_nsd(a, b, spacing, one, other):
    narrow, wide = sorted((one, other))
    assert agreement(a, b, spacing, narrow).nsd <= agreement(a, b, spacing, wide).nsd


# Against MONAI


def _by_monai(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance_mm: float) -> Agreement:
    one_hot = [torch.from_numpy(m)[None, None].float() for m in (a, b)]
    geometry = {"include_background": True, "spacing": spacing}
    return Agreement(
        dsc=compute_dice(*one_hot, include_background=True).item(),
        nsd=compute_surface_dice(*one_hot, [tolerance_mm], **geometry).item(),
        hd95_mm=compute_hausdorff_distance(*one_hot, percentile=95, **geometry).item(),
    )


def _assert_alike(found: Agreement, expected: Agreement) -> None:
    assert found.dsc == pytest.approx(expected.dsc, abs=1e-6)
    assert found.nsd == pytest.approx(expected.nsd, abs=1e-6)
    assert found.hd95_mm == pytest.approx(expected.hd95_mm, rel=1e-5)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges")
@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_monai(seed: int):
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.6, 3.3, 3))
    shape = (18, 30, 26)
    a = ball(shape, tuple(s * n / 2 for s, n in zip(spacing, shape, strict=True)), 11.0, spacing)
    b = np.roll(a, (1, -2, 1), axis=(0, 1, 2))
    b ^= rng.random(shape) < 0.01
    _assert_alike(agreement(a, b, spacing, tolerance_mm=2.3), _by_monai(a, b, spacing, 2.3))
    single = slice(9, 10)
    in_plane = _by_monai(a[9], b[9], spacing[1:], 2.3)
    _assert_alike(agreement(a[single], b[single], spacing, tolerance_mm=2.3), in_plane)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges")
def test_the_same_as_monai_on_real_organs(test_data):
    folder = test_data / "ct_abdomen_dicom"
    volume = read_volume(folder / "series")
    labels = read_labels(folder / "labels.nii.gz", volume).labels
    for organ in (1, 6):  # spleen, stomach
        mask = labels == organ
        other = np.roll(binary_opening(mask, iterations=2), (0, 1, 2), axis=(0, 1, 2))
        _assert_alike(agreement(mask, other, volume.spacing), _by_monai(mask, other, volume.spacing, 2.0))


# Mistakes


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(UserError, match="Resample"):
        dice(np.zeros((3, 3), bool), np.zeros((3, 4), bool))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, math.nan, 1), (-1, 1, 1)])
def test_a_wrong_spacing_is_refused(spacing):
    with pytest.raises(UserError, match="voxel size"):
        agreement(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), spacing)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(UserError, match="tolerance"):
        agreement(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), (1, 1, 1), -1.0)
