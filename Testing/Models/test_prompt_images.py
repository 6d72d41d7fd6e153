"""Preprocessing against a few independent lines of what the authors of MedSAM and SAM publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage import transform
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from medquant.errors import UserError
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.models.prompt_images import (
    MEDSAM,
    SAM,
    SlicePreprocessing,
    averaged_masks,
    crop_for,
    grey_window,
    input_boxes,
    masks_on_picture,
    pixel_values,
    tidied,
)


def ct(shape: tuple[int, int, int] = (3, 50, 71)) -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.integers(-1000, 1500, shape).astype(np.int16), np.eye(4), modality="CT")


def medsam_oracle(volume: np.ndarray, index: int, modality: str, level: float = 40, width: float = 400) -> np.ndarray:
    """What MedSAM's encoder gets, (3, 1024, 1024): grey levels of the whole scan, three channels, resize."""
    if modality == "CT":
        clipped = np.clip(volume.astype(np.float64), level - width / 2, level + width / 2)
    else:
        low, high = np.percentile(volume[volume > 0], [0.5, 99.5])
        clipped = np.clip(volume.astype(np.float64), low, high)
    scaled = (clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0
    if modality != "CT":
        scaled[volume == 0] = 0
    three = np.repeat(np.uint8(scaled)[index][:, :, None], 3, axis=-1)
    large = transform.resize(three, (1024, 1024), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    return ((large - large.min()) / np.clip(large.max() - large.min(), 1e-8, None)).transpose(2, 0, 1)


def test_medsam_ct_equals_the_published_steps() -> None:
    volume = ct()
    pixels = pixel_values(grey_window(volume, MEDSAM).apply(volume.array[1]), MEDSAM)
    assert pixels.shape == (1, 3, 1024, 1024) and pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0].numpy(), medsam_oracle(volume.array, 1, "CT"), atol=1e-6)


def test_medsam_ct_window_options_count() -> None:
    volume = ct()
    lung = SlicePreprocessing(window_level=-600, window_width=1500)
    pixels = pixel_values(grey_window(volume, lung).apply(volume.array[0]), lung)
    np.testing.assert_allclose(pixels[0].numpy(), medsam_oracle(volume.array, 0, "CT", -600, 1500), atol=1e-6)


def test_medsam_scales_by_the_range_of_the_clipped_scan() -> None:
    array = np.random.default_rng(0).integers(-20, 90, (2, 30, 30)).astype(np.int16)  # well inside the window
    volume = Volume(array, np.eye(4), modality="CT")
    pixels = pixel_values(grey_window(volume, MEDSAM).apply(array[1]), MEDSAM)
    np.testing.assert_allclose(pixels[0].numpy(), medsam_oracle(array, 1, "CT"), atol=1e-6)


def test_medsam_mr_equals_the_published_steps() -> None:
    rng = np.random.default_rng(2)
    array = np.where(rng.random((4, 33, 40)) < 0.3, 0, rng.gamma(2.0, 90.0, (4, 33, 40))).astype(np.float32)
    volume = Volume(array, np.eye(4), modality="MR")
    pixels = pixel_values(grey_window(volume, MEDSAM).apply(array[2]), MEDSAM)
    # float32 against float64 may move a voxel across one whole grey level
    assert np.abs(pixels[0].numpy() - medsam_oracle(array, 2, "MR")).max() <= 1.01 / 255


def test_medsam_shrinks_large_slices_with_antialiasing() -> None:
    volume = ct((2, 1300, 1100))
    pixels = pixel_values(grey_window(volume, MEDSAM).apply(volume.array[0]), MEDSAM)
    np.testing.assert_allclose(pixels[0].numpy(), medsam_oracle(volume.array, 0, "CT"), atol=1e-6)


def test_medsam_on_a_real_slice_equals_the_published_steps(test_data: Path) -> None:
    volume = read_volume(test_data / "ct_abdomen_dicom" / "series")
    assert volume.modality == "CT"
    pixels = pixel_values(grey_window(volume, MEDSAM).apply(volume.array[9]), MEDSAM)
    np.testing.assert_allclose(pixels[0].numpy(), medsam_oracle(volume.array, 9, "CT"), atol=1e-6)


def test_sam_keeps_the_aspect_pads_and_uses_its_own_statistics() -> None:
    volume = ct()
    grey = grey_window(volume, SAM).apply(volume.array[1])
    pixels = pixel_values(grey, SAM)[0].numpy()
    three = np.repeat(grey[:, :, None], 3, axis=-1)
    large = np.asarray(Image.fromarray(three).resize((1024, 721), Image.Resampling.BILINEAR), dtype=np.float32)
    expected = (large - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(pixels[:, :721], expected.transpose(2, 0, 1), atol=1e-5)
    assert (pixels[:, 721:] == 0).all()


def test_boxes_scale_as_the_authors_do() -> None:
    boxes = input_boxes([(10, 20, 35, 49)], (50, 71), MEDSAM)
    np.testing.assert_allclose(boxes[0, 0], np.array([10, 20, 35, 49]) / np.array([71, 50, 71, 50]) * 1024, rtol=1e-6)
    expected = np.array([10 * 1024 / 71, 20 * 721 / 50, 35 * 1024 / 71, 49 * 721 / 50])
    np.testing.assert_allclose(input_boxes([(10, 20, 35, 49)], (50, 71), SAM)[0, 0], expected, rtol=1e-6)


def test_medsam_masks_are_resized_probabilities() -> None:
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)) * 4
    expected = torch.nn.functional.interpolate(torch.sigmoid(logits)[:, None], size=(50, 71), mode="bilinear")
    np.testing.assert_array_equal(masks_on_picture(logits, (50, 71), MEDSAM), (expected[:, 0] > 0.5).numpy())


def test_sam_equals_the_processor_of_transformers() -> None:
    processor = SamImageProcessorPil()
    rng = np.random.default_rng(4)
    grey = ndimage.gaussian_filter(rng.normal(128, 400, (90, 133)), 3).clip(0, 255).astype(np.uint8)
    given = processor(np.repeat(grey[:, :, None], 3, axis=-1), return_tensors="pt")
    pixels = pixel_values(grey, SAM)
    torch.testing.assert_close(given["pixel_values"], pixels, atol=1e-4, rtol=0)
    logits = torch.from_numpy(ndimage.gaussian_filter(rng.normal(0, 5, (2, 256, 256)), (0, 9, 9))).float()
    expected = processor.post_process_masks(
        logits[None, :, None], given["original_sizes"], given["reshaped_input_sizes"], binarize=True
    )
    masks = masks_on_picture(logits, grey.shape, SAM)
    assert 0.2 < masks.mean() < 0.8
    np.testing.assert_array_equal(masks, expected[0][:, 0].numpy())


def test_sam_masks_lose_the_padding() -> None:
    logits = torch.full((1, 256, 256), -1.0)
    logits[0, :, :128] = 1.0  # the left half of the square
    mask = masks_on_picture(logits, (50, 100), SAM)[0]  # half as high as wide
    assert mask[:, :49].all() and not mask[:, 51:].any()


@given(
    x=st.integers(0, 90), y=st.integers(0, 70), w=st.integers(2, 40), h=st.integers(2, 40),
    rows=st.integers(20, 120), columns=st.integers(20, 120), factor=st.floats(1.0, 4.0),
)  # fmt: skip
def test_a_crop_is_a_square_inside_that_holds_the_box(
    x: int, y: int, w: int, h: int, rows: int, columns: int, factor: float
) -> None:
    settings = SlicePreprocessing(zoom_below=10.0, zoom_factor=factor)
    box = (min(x, columns - 2), min(y, rows - 2), min(x + w, columns - 1), min(y + h, rows - 1))
    x0, y0, x1, y1 = crop_for(box, (rows, columns), settings)
    assert min(x0, y0) >= 0 and x1 < columns and y1 < rows and x1 - x0 == y1 - y0
    if max(box[2] - box[0], box[3] - box[1]) + 1 <= min(rows, columns):
        assert x0 <= box[0] and y0 <= box[1] and x1 >= box[2] and y1 >= box[3]


def test_a_large_box_is_not_cut_out() -> None:
    settings = SlicePreprocessing(zoom_below=0.5)
    assert crop_for((0, 0, 50, 10), (100, 100), settings) is None
    assert crop_for((0, 0, 40, 10), (100, 100), settings) is not None
    assert crop_for((0, 0, 1, 1), (100, 100), MEDSAM) is None


def test_tidying_clips_keeps_the_largest_piece_and_fills() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:20, 10:20] = True
    mask[14, 14] = False  # a hole
    mask[22:24, 12:14] = True  # a smaller piece
    mask[0:8, 30:40] = True  # far outside
    settings = SlicePreprocessing(clip_margin=0.5, largest_component=True, fill_holes=True)
    expected = np.zeros_like(mask)
    expected[10:20, 10:20] = True
    before = mask.copy()
    np.testing.assert_array_equal(tidied(mask, (9, 9, 24, 24), settings), expected)
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(tidied(mask, (9, 9, 24, 24), MEDSAM), before)


def test_a_scan_outside_the_window_is_refused() -> None:
    array = np.random.default_rng(0).integers(-1000, -500, (2, 9, 9)).astype(np.int16)
    with pytest.raises(UserError, match="one grey level only in the window W400 L40"):
        grey_window(Volume(array, np.eye(4), modality="CT"), MEDSAM)


def test_settings_survive_json_and_refuse_the_unknown() -> None:
    import json

    assert SlicePreprocessing.from_dict(json.loads(json.dumps(SAM.to_dict()))) == SAM
    with pytest.raises(UserError, match="zooom"):
        SlicePreprocessing.from_dict({"zooom": 2})


def test_averaged_masks_follow_the_mean_of_both_logits() -> None:
    shape, where = (40, 60), (10, 5, 29, 24)
    yes, no = torch.full((1, 8, 8), 1.0), torch.full((1, 8, 8), -3.0)
    assert averaged_masks(yes, yes, shape, where).shape == (1, 20, 20)
    assert averaged_masks(yes, yes, shape, where).all()
    assert not averaged_masks(yes, no, shape, where).any()
    # The whole picture's logits are cut where the part lies: right half of the picture positive.
    half = torch.full((1, 8, 8), -1.0)
    half[..., 4:] = 1.0
    mask = averaged_masks(torch.zeros(1, 8, 8), half, shape, (20, 0, 39, 19))[0]
    assert not mask[:, :8].any()
    assert mask[:, 12:].all()
