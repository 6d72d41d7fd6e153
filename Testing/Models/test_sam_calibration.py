"""What calibrates the box-prompted adapter: pictures and boxes as at inference, every layer, the slices chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.prompt_images import SlicePreprocessing, grey_window, pixel_values
from medquant.models.sam import SamModelAdapter
from medquant.prompts import Box, BoxPrompt

SETTINGS = SlicePreprocessing(image_size=64)
MakeVolume = Callable[..., Volume]


@pytest.fixture
def model(small_adapter: Callable[..., SamModelAdapter]) -> SamModelAdapter:
    return small_adapter(SETTINGS)


def test_calibration_calls_every_layer_once(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    calls: Counter[str] = Counter()
    layers = {
        n: m for n, m in model.network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    }
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    batches = list(model.calibration_batches(blob_ct(), CalibrationSelection(count=2)))
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, *batches[0].inputs)
    assert calls == Counter(dict.fromkeys(layers, 1))
    assert logits.shape == (1, 4, 32, 32)
    assert model.foreground(logits).shape == (1, 32, 32)
    np.testing.assert_array_equal(model.foreground(logits), (logits > 0).any(1))


def test_calibration_inputs_are_those_of_segmentation(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    before = volume.array.copy()
    batches = list(model.calibration_batches(volume, CalibrationSelection(count=5, where="even")))
    assert len(batches) == 5
    grey = grey_window(volume, SETTINGS)
    for k, batch in enumerate(batches):
        pixels, boxes = batch.inputs
        assert torch.equal(pixels, pixel_values(grey.apply(volume.array[k]), SETTINGS))
        assert boxes.shape == (1, 4, 4) and (boxes >= 0).all() and (boxes <= 64).all()
        assert (boxes[..., 2:] > boxes[..., :2]).all()
        assert batch.focus.shape == (1, 64, 64) and batch.focus.min() >= 0 and batch.focus.max() <= 1
        assert batch.focus[0, 32, 32] > 0.9 and batch.focus[0, 0, 0] < 0.1  # the body's middle, the air's corner
    np.testing.assert_array_equal(volume.array, before)


def test_calibration_is_seeded(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    def boxes(seed: int) -> torch.Tensor:
        selection = CalibrationSelection(count=3, seed=seed)
        return torch.cat([b.inputs[1] for b in model.calibration_batches(blob_ct(), selection)])

    assert torch.equal(boxes(0), boxes(0)) and not torch.equal(boxes(0), boxes(1))


def test_calibration_takes_the_slices_of_the_range(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    batches = model.calibration_batches(volume, CalibrationSelection(count=9, where="range", first=2, last=3))
    grey = grey_window(volume, SETTINGS)
    for k, batch in zip((2, 3), batches, strict=True):
        assert torch.equal(batch.inputs[0], pixel_values(grey.apply(volume.array[k]), SETTINGS))


def test_calibration_walks_the_axis_that_boxes_walk(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    """Thick sagittal slices: without a plane a box walks them, so they calibrate as well."""
    thick = blob_ct((30, 36, 6), np.diag([6.0, 1.0, 1.0, 1.0]))
    pictures = [thick.array[::-1, :, n] for n in range(6)]
    grey = grey_window(thick, SETTINGS)
    batches = list(model.calibration_batches(thick, CalibrationSelection(count=6, where="even")))
    for picture, batch in zip(pictures, batches, strict=True):
        assert torch.equal(batch.inputs[0], pixel_values(grey.apply(picture), SETTINGS))
    labels = model.segment(thick, BoxPrompt((Box((2, 6, 5), (2, 30, 25)),))).labels
    assert labels[:, :, 2].any() and not np.delete(labels, 2, axis=2).any()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (CalibrationSelection(count=0), "At least one slice"),
        (CalibrationSelection(where="range", first=3, last=9), "no slices 3 to 9"),
        (CalibrationSelection(where="nowhere"), "Unknown choice"),
    ],
)
def test_impossible_selections_are_refused(
    model: SamModelAdapter, selection: CalibrationSelection, message: str, blob_ct: MakeVolume
) -> None:
    with pytest.raises(UserError, match=message):
        list(model.calibration_batches(blob_ct(), selection))


def test_constant_slices_do_not_calibrate(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    array = blob_ct().array.copy()
    array[1:3] = -1000
    volume = Volume(array, np.eye(4), modality="CT")
    with pytest.raises(UserError, match="more than one grey value"):
        list(model.calibration_batches(volume, CalibrationSelection(where="range", first=1, last=2)))
    with pytest.raises(UserError, match="same value"):
        list(model.calibration_batches(volume.with_array(np.zeros_like(array)), CalibrationSelection()))
