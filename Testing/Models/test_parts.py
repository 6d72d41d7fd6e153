"""Parts of models: the numbers of the whole network, and segmentation through whatever executes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medquant import segment
from medquant.activation_settings import IntActivations
from medquant.errors import Cancelled, UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, Model
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.sam import SamModelAdapter
from medquant.models.torch_program import from_module
from medquant.prompts import Box, BoxPrompt
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

SETTINGS = SlicePreprocessing(image_size=64)
BOX = Box((8, 9, 1), (30, 25, 3), label=3, name="organ", plane="axial")
MakeVolume = Callable[..., Volume]


class Recorded:
    """A session that runs the module of a part and counts its runs; `hold` keeps it busy."""

    runtime, precision, device, simulated = "recorded", "fp32", "CPU", False

    def __init__(self, module: nn.Module) -> None:
        self.module, self.runs, self.hold = module, 0, None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        if self.hold is not None:
            assert self.hold.wait(30)
        with torch.inference_mode():
            return self.module(*inputs)


def through_sessions(model: Model) -> Model:
    twin = model.with_network(model.network)
    twin.sessions = {name: Recorded(part.module) for name, part in model.parts().items()}
    return twin


@pytest.fixture
def sam(small_adapter: Callable[..., SamModelAdapter]) -> SamModelAdapter:
    return small_adapter(SETTINGS)


@pytest.fixture
def patchwise() -> Model:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1))
    return from_module(network, name="patches", roi_size=(4, 16, 16))


@torch.inference_mode()
def test_the_parts_of_a_sam_are_the_whole(sam: SamModelAdapter) -> None:
    parts = sam.parts()
    assert list(parts) == ["image_encoder", "mask_decoder"]
    assert parts["mask_decoder"].dynamic == {"boxes": (1,)}
    (pixels,) = parts["image_encoder"].inputs.values()
    for count in (1, 2, 7):
        corners = torch.rand(1, count, 2, 2, generator=torch.Generator().manual_seed(count)) * 64
        boxes = corners.sort(2).values.flatten(2)
        whole = sam.network(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[0, :, 0]
        found = sam.compute("mask_decoder", sam.compute("image_encoder", pixels), boxes)
        torch.testing.assert_close(found, whole, rtol=0, atol=0)


@torch.inference_mode()
def test_a_box_on_dynamic_grids_does_not_depend_on_the_others(sam: SamModelAdapter) -> None:
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[4.0, 6.0, 30.0, 40.0], [20.0, 1.0, 60.0, 62.0], [50.0, 50.0, 52.0, 53.0]]])
    recipe = Recipe(weights=IntWeights(8), activations=IntActivations(4, mode="dynamic"), method="rtn")
    part = quantize(sam, [CalibrationBatch((pixels, boxes))], recipe=recipe).model.parts()["mask_decoder"]
    embedding = part.inputs["embedding"]
    together = part.module(embedding, boxes)
    for number in range(3):
        alone = part.module(embedding, boxes[:, number : number + 1])
        # A sum that differs in its last bit may round to the next integer.
        assert (together[number] - alone[0]).norm() < 0.05 * alone.norm()


def test_the_mask_decoder_is_traced_for_any_number_of_boxes(sam: SamModelAdapter) -> None:
    part = sam.parts()["mask_decoder"]
    embedding, _ = part.inputs.values()
    with torch.no_grad():
        traced = torch.jit.trace(part.module, tuple(part.inputs.values()), check_trace=False)
        for count in (1, 2, 5):
            boxes = torch.rand(1, count, 4, generator=torch.Generator().manual_seed(count)).sort(-1).values * 60
            torch.testing.assert_close(traced(embedding, boxes), part.module(embedding, boxes))


def test_a_sam_through_sessions_gives_the_same_masks(sam: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    boxes = BoxPrompt((BOX, replace(BOX, lower=(20, 15, 2), upper=(45, 35, 4), label=4)))
    twin = through_sessions(sam)
    np.testing.assert_array_equal(twin.segment(volume, boxes).labels, sam.segment(volume, boxes).labels)
    assert {name: session.runs for name, session in twin.sessions.items()} == {"image_encoder": 4, "mask_decoder": 4}
    assert not sam.sessions, "the model itself stays with PyTorch"
    assert not twin.with_network(twin.network).sessions, "another network must not be run by this one's sessions"


def test_patches_through_a_session_give_the_same_labels(patchwise: Model, blob_ct: MakeVolume) -> None:
    volume, twin = blob_ct(), through_sessions(patchwise)
    np.testing.assert_array_equal(twin.segment(volume).labels, patchwise.segment(volume).labels)
    assert twin.sessions["network"].runs > 4


def test_a_quantized_network_takes_as_many_channels() -> None:
    network = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, 3, 1)).eval()
    model = from_module(network, name="two channels", roi_size=(8, 8, 8))
    recipe = Recipe(weights=IntWeights(8), method="rtn")
    quantized = quantize(model, [CalibrationBatch((torch.randn(1, 2, 8, 8, 8),))], recipe=recipe)
    for part in (model.parts()["network"], quantized.model.parts()["network"]):
        assert part.inputs["patch"].shape == (1, 2, 8, 8, 8)
        assert part.module(*part.inputs.values()).shape == (1, 3, 8, 8, 8)


def test_further_outputs_are_left_out() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv3d(2, 3, 1)

        def forward(self, patch: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            logits = self.layer(patch)
            return logits, [logits[..., ::2]]

    network = Deep().eval()
    part = from_module(network, name="deep", roi_size=(4, 4, 4)).parts()["network"]
    (patch,) = part.inputs.values()
    assert patch.shape == (1, 2, 4, 4, 4)
    torch.testing.assert_close(part.module(patch), network(patch)[0])
    assert from_module(network, name="deep").parts()["network"].inputs == {}


def test_what_computed_a_segmentation_is_told(sam: SamModelAdapter, blob_ct: MakeVolume) -> None:
    prompt = BoxPrompt((BOX,))
    plain = segment(sam, blob_ct(), prompt=prompt).execution
    assert (plain.runtime, plain.precision, plain.device, plain.simulated) == ("pytorch", "fp32", "CPU", None)
    twin = through_sessions(sam)
    twin.sessions["mask_decoder"].precision, twin.why = "bf16", "somebody chose it"
    told = segment(twin, blob_ct(), prompt=prompt).execution
    assert (told.runtime, told.precision, told.reason) == ("recorded", "fp32 + bf16", "somebody chose it")


def test_progress_is_told_slice_by_slice(sam: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume, seen = blob_ct((60, 40, 52)), []
    box = replace(BOX, lower=(8, 9, 0), upper=(30, 25, 59))
    segment(through_sessions(sam), volume, prompt=BoxPrompt((box,)), progress=seen.append)
    slices = [event.message for event in seen if event.message.startswith("Slice")]
    assert slices == [f"Slice {n} of 60" for n in range(1, 61)]
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


@pytest.mark.parametrize("part", ["image_encoder", "mask_decoder"])
def test_the_wish_to_stop_is_heard_between_slices(sam: SamModelAdapter, part: str, blob_ct: MakeVolume) -> None:
    twin = through_sessions(sam)
    box = BoxPrompt((replace(BOX, lower=(8, 9, 0), upper=(30, 25, 59)),))
    with pytest.raises(Cancelled):
        segment(twin, blob_ct((60, 40, 52)), prompt=box, cancelled=lambda: twin.sessions[part].runs >= 5)
    assert twin.sessions[part].runs <= 7, "one slice may be under way, and its masks"


def test_the_wish_to_stop_is_heard_while_a_runtime_is_busy(sam: SamModelAdapter, blob_ct: MakeVolume) -> None:
    twin = through_sessions(sam)
    encoder = twin.sessions["image_encoder"]
    encoder.hold = threading.Event()
    try:
        with pytest.raises(Cancelled):  # while the encoder is still in its first slice
            segment(twin, blob_ct(), prompt=BoxPrompt((BOX,)), cancelled=lambda: encoder.runs == 1)
    finally:
        encoder.hold.set()
    encoder.hold = None
    again = segment(twin, blob_ct(), prompt=BoxPrompt((BOX,)))
    np.testing.assert_array_equal(again.labels, sam.segment(blob_ct(), BoxPrompt((BOX,))).labels)


def test_cancel_between_patches(patchwise: Model, blob_ct: MakeVolume) -> None:
    twin = through_sessions(patchwise)
    with pytest.raises(Cancelled):
        segment(twin, blob_ct((20, 40, 52)), cancelled=lambda: twin.sessions["network"].runs >= 2)
    assert twin.sessions["network"].runs == 2


class Greedy(nn.Module):
    """Asks the real allocator for a petabyte."""

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        return patch + torch.empty(2**50, dtype=torch.uint8)[0]


def test_a_failed_allocation_is_told_in_words(blob_ct: MakeVolume) -> None:
    with pytest.raises(UserError, match="not enough memory to run greedy"):
        segment(from_module(Greedy(), name="greedy", roi_size=(4, 16, 16)), blob_ct())


def test_another_fault_is_not_called_memory(blob_ct: MakeVolume) -> None:
    class Broken(nn.Module):
        def forward(self, patch: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        segment(from_module(Broken(), name="broken", roi_size=(4, 16, 16)), blob_ct())
