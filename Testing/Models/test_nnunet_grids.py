"""nnU-Net's preprocessing and resampling: nnunetv2's own numbers, and no whole stack of them in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy import ndimage

from medquant.models.nnunet_labels import PlanePainter, rounded_to_half
from medquant.models.nnunet_plans import Plans
from medquant.models.nnunet_resampling import Resampling, resample_image

SPACINGS = st.tuples(*[st.sampled_from([0.7, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0])] * 3).map(list)
SHAPES = st.tuples(*[st.integers(2, 24)] * 3)


def smooth(shape: tuple[int, ...], seed: int, scale: float = 10.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return (ndimage.gaussian_filter(noise, [0] * (len(shape) - 3) + [1.2] * 3) * scale).astype(np.float32)


def shape_after(old: tuple[int, ...], spacing: list[float], new_spacing: list[float]) -> tuple[int, ...]:
    return tuple(max(1, round(s / t * n)) for s, t, n in zip(spacing, new_spacing, old, strict=True))


@settings(deadline=None, max_examples=40)
@given(
    old=SHAPES, spacing=SPACINGS, new_spacing=SPACINGS, order=st.sampled_from([1, 3]), order_z=st.integers(0, 1),
    force=st.sampled_from([None, True, False]), seed=st.integers(0, 99),
)  # fmt: skip
def test_images_are_resampled_as_nnunetv2_does(
    old: tuple[int, ...], spacing: list[float], new_spacing: list[float], order: int, order_z: int,
    force: bool | None, seed: int,
) -> None:  # fmt: skip
    image, new = smooth(old, seed), shape_after(old, spacing, new_spacing)
    options = {"is_seg": False, "order": order, "order_z": order_z, "force_separate_z": force}
    expected = resample_data_or_seg_to_shape(image[None], new, spacing, new_spacing, **options)[0]
    before = image.copy()
    found = resample_image(image, Resampling.of_plans(options, old, new, spacing, new_spacing))
    np.testing.assert_array_equal(image, before)
    assert found.dtype == expected.dtype == np.float32
    # The order of additions differs, which a float32 shows where the exact value lies in the middle of two: by a bit.
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-12 * np.abs(image).max())


@pytest.mark.parametrize("spacing", [[2.0, 0.977, 0.977], [5.0, 0.8, 0.8], [1.0, 0.8, 0.8], [0.9, 0.9, 4.0]])
def test_usual_scans_are_resampled_to_the_last_bit(spacing: list[float]) -> None:
    image, options = smooth((30, 70, 64), 1), {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    new = shape_after(image.shape, spacing, [1.5] * 3)
    expected = resample_data_or_seg_to_shape(image[None], new, spacing, [1.5] * 3, **options)[0]
    found = resample_image(image, Resampling.of_plans(options, image.shape, new, spacing, [1.5] * 3))
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=40)
@given(
    old=SHAPES, spacing=SPACINGS, new_spacing=SPACINGS, force=st.sampled_from([None, True, False]),
    regions=st.booleans(), slab=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_labels_are_those_of_all_logits_resampled_at_once(
    old: tuple[int, ...], spacing: list[float], new_spacing: list[float], force: bool | None, regions: bool,
    slab: int, seed: int,
) -> None:  # fmt: skip
    logits = torch.from_numpy(smooth((4, *old), seed, 4.0)).half()
    new = shape_after(old, spacing, new_spacing)
    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": force}
    resampled = np.asarray(resample_data_or_seg_to_shape(logits, new, spacing, new_spacing, **options))
    order = (3, 1, 2, 7)
    if regions:
        expected = np.zeros(new, dtype=np.uint8)
        for label, region in zip(order, torch.sigmoid(torch.from_numpy(resampled).float()).numpy(), strict=True):
            expected[region > 0.5] = label
    else:
        expected = resampled.argmax(0)
    how = Resampling.of_plans(options, old, new, spacing, new_spacing)
    found = np.zeros(new, dtype=np.uint8)
    painter = PlanePainter(how, found, order if regions else None)
    for planes in logits.split(slab, 1):
        painter.add(planes)
    painter.finish()
    np.testing.assert_array_equal(found, expected)


def test_ties_between_float16_go_as_in_nnunetv2() -> None:
    """From 1.5 to 1 mm every second voxel lies in the middle of two: sums that end between two float16 are common."""
    logits = torch.from_numpy(smooth((3, 12, 30, 30), 5, 6.0)).half()
    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    new, spacing, new_spacing = (18, 45, 45), [1.5] * 3, [1.0] * 3
    expected = np.asarray(resample_data_or_seg_to_shape(logits, new, spacing, new_spacing, **options))
    found = []

    class Watched(PlanePainter):
        def _largest(self, values: torch.Tensor, chosen: torch.Tensor) -> np.ndarray:
            found.append((values.clone(), chosen))
            return super()._largest(values, chosen)

    painter = Watched(Resampling.of_plans(options, (12, 30, 30), new, spacing, new_spacing), np.zeros(new, np.uint8))
    painter.add(logits)
    painter.finish()
    assert len(found) == 18
    for plane, (values, chosen) in enumerate(found):
        np.testing.assert_array_equal(values.numpy(), expected[chosen.numpy(), plane].astype(np.float32))


def test_planes_that_are_missing_are_noticed() -> None:
    painter = PlanePainter(Resampling((4, 3, 3), (8, 3, 3), (1, 1, 1)), np.zeros((8, 3, 3), np.uint8))
    painter.add(torch.zeros(2, 3, 3, 3).half())
    with pytest.raises(ValueError, match="3 of 4 planes"):
        painter.finish()


@settings(deadline=None)
@given(st.lists(st.floats(-70000, 70000, width=64), min_size=1, max_size=50))
def test_the_doubt_about_a_rounding_is_never_missed(values: list[float]) -> None:
    exact = torch.tensor(values, dtype=torch.float64)
    midway = exact.half().double() * (1 + 2.0**-11)  # the middle to the next float16, as nearly as it can be told
    for each in (exact, midway, midway * (1 + 1e-12)):
        rounded, doubtful = rounded_to_half(each)
        with np.errstate(over="ignore"):
            right = torch.from_numpy(each.numpy().astype(np.float16).astype(np.float32))
        assert torch.equal(rounded[~doubtful], right[~doubtful])


@pytest.mark.parametrize("scheme", ["CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_preprocessing_equals_nnunetv2(
    plans_of: Callable[..., dict[str, Any]], scheme: str, masked: bool, transpose: tuple[int, ...]
) -> None:
    content = plans_of(transpose=transpose)
    configuration = content["configurations"]["3d_fullres"]
    configuration["normalization_schemes"], configuration["use_mask_for_norm"] = [scheme], [masked]
    plans = Plans(content, {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}}, "3d_fullres")
    array = np.rint(smooth((13, 31, 29), 3, 400)).astype(np.int16)
    array[:, :4] = array[:, :, -3:] = array[5, 9:20, 9:20] = 0  # a border that is cropped, and a hole that is filled
    spacing = [2.0, 1.1, 0.9]
    found, properties = plans.preprocess(array, spacing)
    expected, _, theirs = DefaultPreprocessor(verbose=False).run_case_npy(
        array[None].astype(np.float32), None, {"spacing": spacing}, plans._manager, plans._configuration, {}
    )
    np.testing.assert_array_equal(found, expected)
    for name, value in theirs.items():
        np.testing.assert_array_equal(properties[name], value)
