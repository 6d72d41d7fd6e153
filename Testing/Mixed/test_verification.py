"""Candidates segment what was held out: the embedded models, on a phantom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medquant.embedded.phantom import make_phantom
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.matrices import is_quantizable
from medquant.mixed.search import SafeModel, Tolerance, smallest_safe_model
from medquant.mixed.verification import Verification, kept
from medquant.models.base import CalibrationSelection, Model
from medquant.models.catalogue import EMBEDDED_NNUNET
from medquant.models.registry import load_model
from medquant.models.torch_program import from_module
from medquant.prompts import Box, BoxPrompt
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe
from medquant.segment import segment
from medquant.segmentation import Segmentation, Structure

RTN = Recipe(method="rtn")
THREE = CalibrationSelection(count=3)


@pytest.fixture(scope="module")
def scan() -> Volume:
    """A coarse phantom."""
    array, _, _, affine = make_phantom(0, (12, 64, 64), (12.0, 6.0, 6.0))
    return Volume(array, affine, name="phantom", modality="CT")


@pytest.fixture(scope="module")
def boxes() -> BoxPrompt:
    """Around the tissue of two structures."""
    return BoxPrompt(
        (Box((10, 15, 2), (35, 45, 9), label=1, name="liver"), Box((40, 20, 7), (56, 45, 8), label=2, name="spleen"))
    )


@pytest.fixture(scope="module")
def promptable() -> Model:
    """The embedded model."""
    return load_model("embedded")


@pytest.fixture(scope="module")
def automatic() -> Model:
    """The embedded nnU-Net."""
    return load_model(EMBEDDED_NNUNET)


def _rounded(model: Model, verification: Verification, bits: int) -> object:
    (part, selection), *_ = verification.calibrating
    plain = Recipe(weights=IntWeights(bits), method="rtn", ends_bits=None, extra_bits=0.0)
    return quantize(model, list(model.calibration_batches(part, selection)), recipe=plain)


def test_the_boxes_given_are_segmented_on_slices_that_did_not_calibrate(
    promptable: Model, scan: Volume, boxes: BoxPrompt
) -> None:
    verification = Verification(promptable, [scan], THREE, boxes)
    quantized = _rounded(promptable, verification, 3)
    found = verification(quantized)
    assert {one.name for one in found.structures} == {"liver", "spleen"}
    ((part, _),) = verification.calibrating
    held = [k for k in range(len(scan.array)) if not (part.array == scan.array[k]).all((1, 2)).any()]
    whole = [segment(model, scan, prompt=boxes).labels[held] for model in (promptable, quantized)]
    for one in found.structures:  # another path to the same masks
        full, rounded = (labels == {"liver": 1, "spleen": 2}[one.name] for labels in whole)
        assert one.dsc == pytest.approx(2 * (full & rounded).sum() / (full.sum() + rounded.sum()))
        assert one.volume_ml == pytest.approx(rounded.sum() * scan.voxel_volume_ml)
    assert found.worst_dsc == min(one.dsc for one in found.structures) < 1
    assert found.dsc == pytest.approx(np.mean([one.dsc for one in found.structures]))
    checked = verification.checked(quantized)
    assert checked.slices == len(held) and checked.describe().endswith("held-out slices with the boxes given")
    assert checked.simulated and "simulated" in checked.computed_by and checked.seconds > 0 < checked.seconds_fp32


def test_without_boxes_they_are_random_and_that_is_said(promptable: Model, scan: Volume) -> None:
    verification = Verification(promptable, [scan], THREE)
    quantized = _rounded(promptable, verification, 8)
    assert all(one.name.startswith("random box") for one in verification(quantized).structures)
    assert verification.checked(quantized).describe() == "1 held-out slice, boxes drawn at random"


def test_a_structure_that_is_lost_makes_a_model_unsafe(scan: Volume, boxes: BoxPrompt) -> None:
    """The mean may be high while one of them is gone: the worst is told by its name."""
    full = np.zeros(scan.shape, dtype=np.uint8)
    full[2:6, 10:30, 10:30], full[7, 40:44, 40:44] = 1, 2
    lost = np.where(full == 2, 0, full)
    named = (Structure(1, "liver"), Structure(2, "spleen"))
    found = kept([Segmentation(lost, scan, named)], [Segmentation(full, scan, named)])
    assert (found.worst, found.worst_dsc, found.dsc, found.volume_change) == ("spleen", 0.0, 0.5, 1.0)
    assert not Tolerance(0.9).allows(found) and Tolerance(0.5).allows(found)
    assert not Tolerance(0.5, volume_change=0.9).allows(found)


def _safe(model: Model, scan: Volume, least: float, **options: object) -> SafeModel:
    layers = [name for name, module in model.network.named_modules() if is_quantizable(module)]
    asked = {"recipe": RTN, "bits": (2, 8), "selection": THREE, "ignore": layers[:-2]} | options  # little is left to do
    return smallest_safe_model(model, scan, tolerance=Tolerance(least), **asked)


@pytest.mark.heavy
def test_a_network_that_takes_no_boxes_segments_a_part_of_the_scan(automatic: Model, scan: Volume) -> None:
    found = _safe(automatic, scan, 0.5)
    assert found.held_out == 4 and found.checked.boxes == ""
    assert found.safe == (found.change.dsc >= 0.5) and found.change.structures
    assert found.change.worst in {structure.name for structure in automatic.structures}
    told = found.to_dict()
    assert told["seconds"] > 0 < told["seconds_fp32"] and told["search_seconds"] > told["seconds"]
    assert told["held_out"] == told["slices"] == 4 and told["structures"][0]["name"]


def test_it_backs_off_where_the_masks_are_lost(scan: Volume) -> None:
    """Of a network whose two classes part at a grey value that 2 bits cannot tell."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 16, 1), nn.ReLU(), nn.Conv3d(16, 2, 1))
    found = smallest_safe_model(
        from_module(network, name="net"), scan, recipe=RTN, bits=(2, 8), selection=THREE, tolerance=Tolerance(0.97)
    )
    assert {one.safe for one in found.tried} == {True, False}
    assert found.safe and found.change.dsc >= 0.97 and found.checked.describe() == "4 held-out slices"
    assert all(one.change.dsc < 0.97 for one in found.tried if not one.safe)


def test_boxes_decide_what_is_safe(promptable: Model, scan: Volume, boxes: BoxPrompt) -> None:
    found = _safe(promptable, scan, 0.9, prompt=boxes)
    assert found.safe == (found.change.dsc >= 0.9) and found.checked.boxes == "given"
    assert {one.name for one in found.change.structures} == {"liver", "spleen"}


def test_what_cannot_check_is_said(promptable: Model, automatic: Model, scan: Volume, boxes: BoxPrompt) -> None:
    with pytest.raises(UserError, match="Boxes belong to one scan"):
        Verification(promptable, [scan, scan], THREE, boxes)
    with pytest.raises(UserError, match="takes no box"):
        Verification(automatic, [scan], THREE, boxes)
    blind = nn.Conv3d(1, 2, 1)
    nn.init.zeros_(blind.weight)
    nn.init.constant_(blind.bias[:1].data, 1.0)
    with pytest.raises(UserError, match="blind finds nothing in the parts of phantom"):
        Verification(from_module(blind, name="blind"), [scan], THREE)
    batches = list(promptable.calibration_batches(scan, CalibrationSelection(count=1)))
    with pytest.raises(UserError, match="those that calibrate"):
        smallest_safe_model(promptable, batches * 3, recipe=RTN)
    with pytest.raises(UserError, match="Boxes belong to a scan"):
        smallest_safe_model(promptable, batches, recipe=RTN, prompt=boxes)
