"""nnU-Net: the labels of nnunetv2's own predictor, voxel by voxel, calibration, and unusable scans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from medquant.embedded.phantom import make_phantom
from medquant.errors import Cancelled, UserError
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.catalogue import EMBEDDED_NNUNET
from medquant.models.nnunet import NnUNetModel
from medquant.models.registry import from_spec, load_model
from medquant.progress import Progress
from medquant.prompts import Box, BoxPrompt

Make = Callable[..., Any]


def oblique(angle: float = 0.4) -> np.ndarray:
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    return about_x @ about_z


@pytest.fixture(scope="module")
def model(results: Path) -> NnUNetModel:
    return NnUNetModel.load(results)


def assert_equal_and_telling(found: np.ndarray, expected: np.ndarray, classes: int = 4) -> None:
    assert np.array_equal(found, expected), f"{(found != expected).sum()} of {found.size} voxels differ"
    shares = np.bincount(expected.ravel(), minlength=classes) / expected.size
    assert (shares > 0.01).sum() >= 3, f"too plain to tell anything: {shares}"


def test_labels_equal_those_of_nnunetv2(results: Path, model: NnUNetModel, scan: Path, own_prediction: Make) -> None:
    volume = read_volume(scan)
    before = volume.array.copy()
    result = model.segment(volume)
    assert_equal_and_telling(result.labels, own_prediction(results, scan))
    np.testing.assert_array_equal(volume.array, before)
    assert [(s.label, s.name) for s in result.structures] == [(1, "liver"), (2, "spleen"), (3, "left kidney")]
    assert set(result.stages) == {"preprocess", "network", "resample"}


@pytest.mark.parametrize(
    "direction",
    [np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, 1.0]), oblique()],
    ids=["RAS", "turned", "left-handed", "oblique"],
)
def test_any_direction_equals_nnunetv2(
    results: Path, tmp_path: Path, direction: np.ndarray, scan_image: Make, own_prediction: Make
) -> None:
    file = tmp_path / "ct.nrrd"
    sitk.WriteImage(scan_image(direction), str(file))
    found = NnUNetModel.load(results, mirroring=False).segment(read_volume(file)).labels
    assert_equal_and_telling(found, own_prediction(results, file, mirroring=False))


def test_the_reorienting_reader_equals_nnunetv2(
    tmp_path: Path, plans_of: Make, write_results: Make, scan_image: Make, own_prediction: Make
) -> None:
    folder = write_results(tmp_path / "results", plans_of(reader="NibabelIOWithReorient"))
    file = tmp_path / "ct.nii.gz"
    sitk.WriteImage(scan_image(np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])), str(file))
    found = NnUNetModel.load(folder, mirroring=False).segment(read_volume(file)).labels
    assert_equal_and_telling(found, own_prediction(folder, file, mirroring=False))


def test_transposed_plans_equal_nnunetv2(
    tmp_path: Path, scan: Path, plans_of: Make, write_results: Make, own_prediction: Make
) -> None:
    folder = write_results(tmp_path / "results", plans_of(transpose=(2, 0, 1)))
    found = NnUNetModel.load(folder, mirroring=False).segment(read_volume(scan)).labels
    assert_equal_and_telling(found, own_prediction(folder, scan, mirroring=False))


def test_a_scan_smaller_than_the_patch_equals_nnunetv2(
    results: Path, model: NnUNetModel, tmp_path: Path, scan_image: Make, own_prediction: Make
) -> None:
    file = tmp_path / "ct.nii.gz"
    sitk.WriteImage(scan_image()[5:20, 8:24, 3:9], str(file))
    np.testing.assert_array_equal(model.segment(read_volume(file)).labels, own_prediction(results, file))


def test_several_folds_equal_nnunetv2(
    tmp_path: Path, scan: Path, plans_of: Make, write_results: Make, own_prediction: Make
) -> None:
    folder = write_results(tmp_path / "results", plans_of(), folds=(0, 3))
    model = NnUNetModel.load(folder, mirroring=False)
    assert model.spec["folds"] == ["0", "3"]
    found = model.segment(read_volume(scan)).labels
    assert_equal_and_telling(found, own_prediction(folder, scan, mirroring=False, folds=(0, 3)))
    one = NnUNetModel.load(folder, mirroring=False, folds="3").segment(read_volume(scan)).labels
    np.testing.assert_array_equal(one, own_prediction(folder, scan, mirroring=False, folds=(3,)))
    assert not np.array_equal(one, found)


def test_regions_equal_nnunetv2(
    tmp_path: Path, scan: Path, plans_of: Make, write_results: Make, own_prediction: Make
) -> None:
    folder = write_results(tmp_path / "results", plans_of(), regions=True)
    model = NnUNetModel.load(folder, mirroring=False)
    assert_equal_and_telling(model.segment(read_volume(scan)).labels, own_prediction(folder, scan, mirroring=False))
    assert [(s.label, s.name) for s in model.structures] == [(1, "whole"), (2, "core"), (3, "inner")]
    logits = torch.tensor([-1.0, 2.0, -3.0, -1.0, -2.0, -1.0]).reshape(1, 3, 2)
    assert model.foreground(logits).tolist() == [[False, True]]


def test_two_dimensional_configurations_equal_nnunetv2(
    tmp_path: Path, scan: Path, plans_of: Make, write_results: Make, own_prediction: Make
) -> None:
    folder = write_results(tmp_path / "nnUNetTrainer__nnUNetPlans__2d", plans_of(dimensions=2), seed=1)
    model = NnUNetModel.load(folder)
    assert_equal_and_telling(model.segment(read_volume(scan)).labels, own_prediction(folder, scan))
    batches = list(model.calibration_batches(read_volume(scan), CalibrationSelection(count=3)))
    assert [b.inputs[0].shape for b in batches] == [(1, 1, 24, 32)] * 3


def test_an_orientation_of_its_own_makes_the_order_of_voxels_irrelevant(
    results: Path, tmp_path: Path, scan_image: Make
) -> None:
    model = NnUNetModel.load(results, mirroring=False, orientation="LPS")
    image = scan_image()
    flipped = sitk.Flip(image, (True, False, True))
    found = []
    for name, stored in (("a", image), ("b", flipped), ("c", sitk.PermuteAxes(image, (2, 0, 1)))):
        sitk.WriteImage(stored, str(tmp_path / f"{name}.nrrd"))
        volume = read_volume(tmp_path / f"{name}.nrrd")
        labels = sitk.GetImageFromArray(model.segment(volume).labels)
        labels.CopyInformation(stored)
        found.append(sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS")))
    assert len(np.unique(found[0])) >= 3
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_the_spec_rebuilds_the_network(model: NnUNetModel, scan: Path) -> None:
    assert "mueller" not in json.dumps(model.spec)
    rebuilt = from_spec(json.loads(json.dumps(model.spec)))
    rebuilt.network.load_state_dict(model.network.state_dict())
    volume = read_volume(scan)
    np.testing.assert_array_equal(rebuilt.segment(volume).labels, model.segment(volume).labels)


def test_calibration_calls_every_layer_on_patches_of_the_preprocessed_scan(model: NnUNetModel, scan: Path) -> None:
    volume = read_volume(scan)
    batches = list(model.calibration_batches(volume, CalibrationSelection(count=3)))
    assert [b.inputs[0].shape for b in batches] == [(1, 1, 16, 24, 16)] * 3
    layers = {n: m for n, m in model.network.named_modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))}
    called: list[str] = []
    hooks = [m.register_forward_hook(lambda *_, n=n: called.append(n)) for n, m in layers.items()]
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, *batches[0].inputs)
    for hook in hooks:
        hook.remove()
    assert sorted(called) == sorted(layers)
    assert logits.shape == (1, 4, 16, 24, 16) and model.foreground(logits).shape == (1, 16, 24, 16)
    data, _ = model._preprocessed(volume)
    windows = data[0].unfold(0, 16, 1).unfold(1, 24, 1).unfold(2, 16, 1)
    for batch in batches:  # each patch is cut from the preprocessed scan as it is
        assert (windows == batch.inputs[0][0, 0]).flatten(3).all(-1).any()


def test_cancel_stops_between_patches(model: NnUNetModel, scan: Path) -> None:
    seen: list[str] = []
    progress = Progress(lambda event: seen.append(event.message), lambda: len(seen) >= 4)
    with pytest.raises(Cancelled):
        model.segment(read_volume(scan), None, progress)
    assert len(seen) == 4 and seen[-1].startswith("Patch 3 of")


def test_cancel_stops_within_a_patch(model: NnUNetModel, scan: Path) -> None:
    """A patch and its mirror images take long in a large network; the wish to stop is heard before every layer."""
    ran: list[int] = []
    layers = [layer for layer in model.network.modules() if isinstance(layer, nn.Conv3d)]
    hooks = [layer.register_forward_hook(lambda *_: ran.append(1)) for layer in layers]
    try:
        with pytest.raises(Cancelled):
            model.segment(read_volume(scan), None, Progress(None, lambda: bool(ran)))
        assert len(ran) == 1
    finally:
        for hook in hooks:
            hook.remove()
    assert model.segment(read_volume(scan)).labels.any()  # nothing of the stopped run is left behind


def test_a_box_is_refused(model: NnUNetModel, scan: Path) -> None:
    with pytest.raises(UserError, match="takes no box"):
        model.segment(read_volume(scan), BoxPrompt((Box((1, 1, 1), (5, 5, 5)),)))


def test_the_embedded_model_equals_nnunetv2_on_a_phantom(tmp_path: Path, own_prediction: Make) -> None:
    assert EMBEDDED_NNUNET.is_dir(), "the embedded nnU-Net is a part of this checkout"
    array, labels, _, affine = make_phantom(seed=5, shape=(24, 96, 96), spacing=(6.0, 4.0, 4.0))
    file = tmp_path / "ct.nii.gz"
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(np.diag(affine)[:3].tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(file))
    model = load_model("embedded-nnunet", device="cpu")
    found = model.segment(read_volume(file)).labels
    np.testing.assert_array_equal(found, own_prediction(EMBEDDED_NNUNET, file))
    liver = next(s.label for s in model.structures if s.name == "liver")
    overlap = 2 * ((found == liver) & (labels == liver)).sum() / ((found == liver).sum() + (labels == liver).sum())
    assert overlap > 0.5


def test_unusable_scans_are_refused(model: NnUNetModel, scan: Path) -> None:
    volume = read_volume(scan)
    broken_array = volume.array.astype(np.float32)
    broken_array[3, 3, 3] = np.inf
    with pytest.raises(UserError, match="not numbers"):
        model.segment(volume.with_array(broken_array))
    with pytest.raises(UserError, match="same value"):
        model.segment(Volume(np.full((8, 8, 8), 3), np.eye(4)))
