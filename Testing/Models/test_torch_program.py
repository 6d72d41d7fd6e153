"""Any torch.nn.Module with its own preprocessing, and the real networks whose weights are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from medquant.errors import Cancelled, UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection, device_of
from medquant.models.registry import adapter_class, from_spec
from medquant.models.torch_program import from_module
from medquant.progress import Progress
from medquant.prompts import Box, BoxPrompt
from medquant.segmentation import Structure

MakeVolume = Callable[..., Volume]


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, classes, 1))


def scaled(volume: Volume) -> torch.Tensor:
    return torch.from_numpy(volume.array.astype(np.float32) / 100)[None]


def test_the_whole_at_once(blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    model = from_module(network(), name="mine", preprocess=scaled)
    result = model.segment(volume)
    with torch.inference_mode():
        expected = network()(scaled(volume)[None])[0].argmax(0).numpy()
    np.testing.assert_array_equal(result.labels, expected)
    assert [s.label for s in result.structures] == [1, 2] and result.labels.dtype == np.uint8
    (batch,) = model.calibration_batches(volume, CalibrationSelection())
    assert torch.equal(model.forward_for_calibration(model.network, *batch.inputs), network()(scaled(volume)[None]))


def test_a_sliding_window(blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    model = from_module(network(), name="mine", preprocess=scaled, roi_size=(4, 16, 16))
    with torch.inference_mode():
        logits = sliding_window_inference(scaled(volume)[None], (4, 16, 16), 1, network(), overlap=0.5, mode="gaussian")
    np.testing.assert_array_equal(model.segment(volume).labels, logits[0].argmax(0).numpy())
    batches = list(model.calibration_batches(volume, CalibrationSelection(count=3)))
    assert [b.inputs[0].shape for b in batches] == [(1, 1, 4, 16, 16)] * 3


def test_progress_rises_and_cancel_is_heard(blob_ct: MakeVolume) -> None:
    model, seen = from_module(network(), name="mine", preprocess=scaled, roi_size=(4, 16, 16)), []
    model.segment(blob_ct(), None, Progress(seen.append))
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(set(fractions)) > 10
    patches = [event.message for event in seen if event.message.startswith("Patch")]
    assert patches[-1] == f"Patch {len(patches)} of {len(patches)}"
    count = len(seen)
    with pytest.raises(Cancelled):
        model.segment(blob_ct(), None, Progress(seen.append, lambda: len(seen) >= count + 5))
    assert len(seen) == count + 5


def test_own_postprocessing_and_names(blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    organ = Structure(300, "organ")
    model = from_module(
        network(1),
        name="mine",
        preprocess=lambda v: scaled(v)[:, :, ::2, ::2],
        postprocess=lambda logits, v: np.kron(logits[0] > 0, np.ones((1, 2, 2), dtype=bool)) * 300,
        structures=(organ,),
    )
    result = model.segment(volume)
    assert result.labels.shape == volume.shape and set(np.unique(result.labels)) <= {0, 300}
    assert result.labels.dtype == np.uint16 and result.structures == (organ,)


def test_one_class_means_above_zero(blob_ct: MakeVolume) -> None:
    model = from_module(network(1), name="mine", preprocess=scaled)
    with torch.inference_mode():
        expected = network(1)(scaled(blob_ct())[None])[0, 0] > 0
    np.testing.assert_array_equal(model.segment(blob_ct()).labels > 0, expected.numpy())
    assert model.foreground(expected[None, None] * 2.0 - 1.0).equal(expected[None])


def test_another_network_in_the_same_adapter(blob_ct: MakeVolume) -> None:
    model = from_module(network(), name="mine", preprocess=scaled)
    other = network()
    with torch.no_grad():
        other[2].bias += torch.tensor([0.0, 50.0, 0.0])
    twin = model.with_network(other)
    assert (twin.segment(blob_ct()).labels == 1).all() and not (model.segment(blob_ct()).labels == 1).all()
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_the_hash_tells_weights_apart() -> None:
    first, second = (from_module(network(n), name="m").weights_hash for n in (3, 3))
    assert first == second and first != from_module(network(2), name="m").weights_hash


def test_mistakes_are_explained(blob_ct: MakeVolume) -> None:
    with pytest.raises(UserError, match="must give a tensor"):
        from_module(network(), name="mine", preprocess=lambda v: v.array).segment(blob_ct())
    half = from_module(network(), name="mine", preprocess=lambda v: scaled(v)[:, :, ::2])
    with pytest.raises(UserError, match="Return labels on the scan's own grid"):
        half.segment(blob_ct())
    with pytest.raises(UserError, match="takes no box"):
        half.segment(blob_ct(), BoxPrompt((Box((1, 1, 1), (5, 5, 5)),)))
    with pytest.raises(UserError, match="which no file can hold"):
        from_spec(half.spec)
    with pytest.raises(UserError, match="given from Python"):
        adapter_class("torch").load(Path("x.pth"))
    with pytest.raises(UserError, match="Unknown model family"):
        adapter_class("none")


def test_the_device_of_networks_without_parameters() -> None:
    """A quantized network of one layer holds buffers only."""
    held = nn.Module()
    assert device_of(held) == torch.device("cpu")
    held.register_buffer("packed", torch.zeros(3, device="meta"))
    assert device_of(held) == torch.device("meta")


def test_cancel_stops_within_the_network() -> None:
    ran: list[int] = []
    two = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1))
    for number, layer in enumerate(two):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    volume = Volume(np.arange(512, dtype=np.float32).reshape(8, 8, 8), np.eye(4))
    for roi_size in (None, (8, 8, 8)):
        ran.clear()
        with pytest.raises(Cancelled):
            from_module(two, name="two", roi_size=roi_size).segment(volume, None, Progress(None, lambda: bool(ran)))
        assert ran == [0]
