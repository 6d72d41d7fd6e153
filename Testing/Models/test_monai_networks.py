"""MONAI networks by name and state dict, their preprocessing, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.networks.nets as nets
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from safetensors.torch import save_file
from torch import nn

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.catalogue import MONAI_NETWORKS
from medquant.models.monai_networks import MonaiModel, VolumePreprocessing
from medquant.models.registry import from_spec, load_model
from medquant.prompts import Box, BoxPrompt

MakeVolume = Callable[..., Volume]
ROI = (32, 32, 32)
LARGE = {"SwinUNETR": (64, 64, 64)}  # five halvings must leave more than one voxel
UNET = {"out_channels": 3, "channels": (4, 8), "strides": (2,)}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "UNet": {**UNET, "norm": "batch"},
    "DynUNet": {
        "out_channels": 3,
        "kernel_size": (3, 3, 3),
        "strides": (1, 2, 2),
        "upsample_kernel_size": (2, 2),
        "filters": (4, 6, 8),
        "deep_supervision": True,
    },
    "SegResNet": {"out_channels": 3, "init_filters": 4, "norm": ("GROUP", {"num_groups": 2}), "blocks_down": (1, 1)}
    | {"blocks_up": (1,)},
    "UNETR": {"out_channels": 3, "img_size": ROI, "feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2},
    "SwinUNETR": {"out_channels": 3, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)},
    "AttentionUnet": UNET,
    "BasicUNet": {"out_channels": 3, "features": (4, 4, 6, 6, 8, 4)},
    "VNet": {"out_channels": 3, "act": "prelu"},
}


def reference(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    obvious = {} if name == "UNETR" else {"spatial_dims": 3}
    return getattr(nets, name)(in_channels=1, **obvious, **ARGUMENTS[name]).eval()


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    torch.save(reference(name).state_dict(), path)
    return path


def test_every_listed_network_is_tested() -> None:
    assert set(ARGUMENTS) == set(MONAI_NETWORKS)


@pytest.mark.parametrize("name", MONAI_NETWORKS)
def test_state_dicts_give_equal_outputs_and_specs_rebuild(name: str, tmp_path: Path) -> None:
    model = load_model(
        f"monai:{name}", weights=saved(name, tmp_path), arguments=ARGUMENTS[name], roi_size=ROI, device="cpu"
    )
    patch = torch.randn(1, 1, *LARGE.get(name, ROI), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(name)(patch)
        logits = model.forward_for_calibration(model.network, patch)
        rebuilt = from_spec(json.loads(json.dumps(model.spec)))
        rebuilt.network.load_state_dict(model.network.state_dict())
        again = rebuilt.forward_for_calibration(rebuilt.network, patch)
    assert torch.equal(logits, expected) and torch.equal(again, expected)
    assert logits.shape == (1, 3, *patch.shape[2:])


@pytest.mark.parametrize("name", MONAI_NETWORKS)
def test_every_layer_runs_or_is_left_out_with_cause(name: str, tmp_path: Path) -> None:
    from fnmatch import fnmatchcase

    model = MonaiModel.load(saved(name, tmp_path), network=name, arguments=ARGUMENTS[name], roi_size=ROI)
    kinds = (nn.Linear, nn.Conv3d, nn.ConvTranspose3d)
    layers = {n: m for n, m in model.network.named_modules() if isinstance(m, kinds)}
    called: set[str] = set()
    for layer_name, layer in layers.items():
        layer.register_forward_hook(lambda *_, n=layer_name: called.add(n))
    with torch.inference_mode():
        model.forward_for_calibration(model.network, torch.randn(1, 1, *LARGE.get(name, ROI)))
    silent = {n for n in layers if n not in called}
    assert silent == {n for n in layers if any(fnmatchcase(n, p) for p in model.default_ignore())}


def test_safetensors_and_the_whole_path_to_labels(tmp_path: Path, blob_ct: MakeVolume) -> None:
    """Against the steps written out: turn to RAS, window, resample, MONAI's sliding window, and back."""
    network = reference("UNet", seed=6)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    model = MonaiModel.load(
        tmp_path / "w.safetensors",
        network="unet",
        arguments=ARGUMENTS["UNet"],
        roi_size=(16, 16, 8),
        preprocessing={"orientation": "RAS", "spacing": (2.0, 1.5, 1.5), "intensity": "range"},
        labels={"organ": 1, "other": 2},
    )
    volume = blob_ct()
    before = volume.array.copy()
    result = model.segment(volume)
    np.testing.assert_array_equal(volume.array, before)
    # the scan is LPS with 4 mm slices and 1 mm pixels: RAS flips j and i; ijk order for the network
    array = volume.array[:, ::-1, ::-1].astype(np.float32)
    array = (np.clip(array, -175, 250) + 175) / 425
    data = torch.from_numpy(np.ascontiguousarray(array.T))[None, None]
    small = nn.functional.interpolate(data, size=(35, 27, 10), mode="trilinear")
    with torch.inference_mode():
        logits = sliding_window_inference(small, (16, 16, 8), 1, network, overlap=0.5, mode="gaussian")
    logits = nn.functional.interpolate(logits, size=array.shape[::-1], mode="trilinear")
    expected = logits[0].argmax(0).numpy().T[:, ::-1, ::-1]
    np.testing.assert_array_equal(result.labels, expected)
    assert len(np.unique(expected)) == 3
    assert [(s.label, s.name) for s in result.structures] == [(1, "organ"), (2, "other")]


def test_an_orientation_makes_the_order_of_voxels_irrelevant(tmp_path: Path, blob_ct: MakeVolume) -> None:
    options = {"network": "UNet", "arguments": ARGUMENTS["UNet"], "roi_size": (16, 16, 8)}
    model = MonaiModel.load(saved("UNet", tmp_path), preprocessing={"orientation": "RAS"}, **options)
    volume = blob_ct()
    columns, offset = volume.affine[:, :3].copy(), volume.affine[:, 3].copy()
    offset += columns[:, 0] * (volume.shape[2] - 1)
    flipped = Volume(
        volume.array[:, :, ::-1].transpose(1, 0, 2),
        np.column_stack([-columns[:, 0], columns[:, 2], columns[:, 1], offset]),
        modality="CT",
    )
    found = model.segment(flipped).labels
    np.testing.assert_array_equal(found.transpose(1, 0, 2)[:, :, ::-1], model.segment(volume).labels)


@pytest.mark.parametrize("intensity", ["zscore", "nonzero-zscore"])
def test_normalisation(tmp_path: Path, intensity: str) -> None:
    array = np.random.default_rng(0).normal(50, 20, (6, 7, 8)).astype(np.float32)
    array[:2] = 0
    settings = {"intensity": intensity, "axes": "kji"}
    model = MonaiModel.load(
        saved("UNet", tmp_path), network="UNet", arguments=ARGUMENTS["UNet"], roi_size=ROI, preprocessing=settings
    )
    data, _ = model.preprocessing.apply(Volume(array, np.eye(4), modality="MR"))
    chosen = array != 0 if intensity == "nonzero-zscore" else np.ones_like(array, dtype=bool)
    expected = array.copy()
    expected[chosen] = (array[chosen] - array[chosen].mean()) / array[chosen].std()
    np.testing.assert_allclose(data[0].numpy(), expected, atol=1e-5)


def test_calibration_patches_come_from_the_body(tmp_path: Path, blob_ct: MakeVolume) -> None:
    options = {"network": "UNet", "arguments": ARGUMENTS["UNet"], "roi_size": (8, 8, 4)}
    model = MonaiModel.load(saved("UNet", tmp_path), **options)
    batches = list(model.calibration_batches(blob_ct(), CalibrationSelection(count=4)))
    assert [b.inputs[0].shape for b in batches] == [(1, 1, 8, 8, 4)] * 4
    assert all(b.inputs[0].max() > -200 for b in batches)  # none of air alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "Unknown"}, "Choose one of UNet"),
        ({"network": "UNet", "arguments": {"chanels": 3}}, "takes no chanels"),
        ({"network": "UNet", "arguments": {"in_channels": 4, **UNET}}, "takes 4 channels"),
        ({"network": "UNet", "arguments": {"out_channels": 3}}, "cannot be built"),
        ({"network": "UNet", "arguments": {**UNET, "channels": (4, 16)}}, "do not fit MONAI's UNet"),
        ({"network": "UNet", "arguments": ARGUMENTS["UNet"], "roi_size": (8, 8)}, "cannot be"),
        ({"network": "UNet", "arguments": ARGUMENTS["UNet"], "preprocessing": {"window": 3}}, "Unknown preprocessing"),
        ({"network": "UNet", "arguments": ARGUMENTS["UNet"], "preprocessing": {"spacing": (1, 0, 1)}}, "sizes above 0"),
    ],
)
def test_what_does_not_fit_is_explained(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MonaiModel.load(saved("UNet", tmp_path), **options)


def test_wrong_orientation_and_a_box_are_explained(tmp_path: Path, blob_ct: MakeVolume) -> None:
    options = {"network": "UNet", "arguments": ARGUMENTS["UNet"], "roi_size": ROI}
    model = MonaiModel.load(saved("UNet", tmp_path), preprocessing=VolumePreprocessing(orientation="RAX"), **options)
    with pytest.raises(UserError, match="no orientation"):
        model.segment(blob_ct())
    with pytest.raises(UserError, match="takes no box"):
        model.segment(blob_ct(), BoxPrompt((Box((1, 1, 1), (5, 5, 5)),)))
