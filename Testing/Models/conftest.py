"""Small random networks, small scans and nnunetv2's own labels, for the tests of the model adapters."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from transformers import SamConfig, SamModel

from medquant.imaging.volume import Volume
from medquant.models.nnunet_folder import quietly
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.sam import SamModelAdapter

LABELS = {"background": 0, "liver": 1, "spleen": 2, "left kidney": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": [3]}


def _small_config(size: int = 64) -> SamConfig:
    return SamConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_dim": 48,
            "image_size": size,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": size, "patch_size": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 40, "iou_head_hidden_dim": 24, "num_attention_heads": 2},
    )


def _small_network(seed: int = 0, size: int = 64) -> SamModel:
    """Random, with masks that depend on the picture and on the box and are neither empty nor full."""
    torch.manual_seed(seed)
    model = SamModel(_small_config(size)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "embed" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
    return model


def _small_adapter(settings: SlicePreprocessing, seed: int = 0) -> SamModelAdapter:
    network = _small_network(seed, settings.image_size)
    spec = {
        "family": "medsam",
        "name": "small",
        "config": network.config.to_dict(),
        "preprocessing": settings.to_dict(),
    }
    return SamModelAdapter(network, preprocessing=settings, name="small", spec=spec, weights_hash="0" * 64)


def _blob_ct(shape: tuple[int, int, int] = (5, 40, 52), affine: np.ndarray | None = None) -> Volume:
    """A CT with a body, an organ and texture."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    rng = np.random.default_rng(1)
    body = ((j - 20) / 17) ** 2 + ((i - 26) / 23) ** 2 < 1
    organ = ((j - 16) / 7) ** 2 + ((i - 18) / 9) ** 2 + ((k - 2) / 3) ** 2 < 1
    array = np.where(body, 40, -1000) + np.where(organ, 80, 0) + rng.normal(0, 15, shape)
    affine = np.diag([1.0, 1.0, 4.0, 1.0]) if affine is None else affine
    return Volume(array.astype(np.int16), affine, modality="CT")


def _plans_of(
    dimensions: int = 3, reader: str = "SimpleITKIO", transpose: tuple[int, ...] = (0, 1, 2)
) -> dict[str, Any]:
    """Plans as nnU-Net's planner writes them, of a small PlainConvUNet."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 24, 16] if dimensions == 3 else [24, 32],
        "median_image_size_in_voxels": [30.0, 40.0, 40.0][3 - dimensions :],
        "spacing": [3.0, 1.5, 1.2][3 - dimensions :],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 6, 8],
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "kernel_sizes": [[3] * dimensions] * 3,
                "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    return {
        "dataset_name": "Dataset901_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.5, 1.2],
        "original_median_shape_after_transp": [30, 40, 40],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [int(n) for n in np.argsort(transpose)],
        "configurations": {"3d_fullres" if dimensions == 3 else "2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 300.0,
                "mean": 60.0,
                "median": 60.0,
                "min": -200.0,
                "percentile_00_5": -150.0,
                "percentile_99_5": 250.0,
                "std": 70.0,
            }
        },
    }


def _write_results(
    folder: Path,
    plans: dict[str, Any],
    *,
    regions: bool = False,
    folds: tuple[int | str, ...] = (0,),
    channels: int = 1,
    seed: int = 2,
) -> Path:
    """A results folder as the trainer leaves it, with random weights whose logits vary."""
    with quietly():
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    name, configuration = next(iter(plans["configurations"].items()))
    architecture = configuration["architecture"]
    dataset = {
        "channel_names": {str(n): "CT" if n == 0 else f"other {n}" for n in range(channels)},
        "labels": REGIONS if regions else LABELS,
        "numTraining": 3,
        "training": [{"image": "imagesTr/mueller_hans_0000.nii.gz"}],
        "file_ending": ".nii.gz",
        **({"regions_class_order": [1, 2, 3]} if regions else {}),
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for number, fold in enumerate(folds):
        torch.manual_seed(seed + number)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            3 if regions else len(LABELS),
            deep_supervision=True,
        )
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter[0].numel() ** 0.5))
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": torch.optim.SGD(network.parameters(), 0.01, momentum=0.99).state_dict(),
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.4)] * 3]},
            "_best_ema": np.float64(0.61),
            "current_epoch": 5,
            "init_args": {
                "plans": plans,
                "configuration": name,
                "fold": fold,
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(range(len(configuration["patch_size"]))),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def _scan_image(direction: np.ndarray | None = None, spacing: tuple[float, ...] = (1.0, 1.3, 4.0)) -> sitk.Image:
    """A CT with blobs of several sizes on an anisotropic grid, its border zero so that nnU-Net crops it."""
    rng = np.random.default_rng(0)
    k, j, i = np.meshgrid(np.arange(14), np.arange(34), np.arange(30), indexing="ij")
    array = 30 + 120 * np.sin(k / 3) * np.cos(j / 6) * np.sin(i / 5) + rng.normal(0, 30, k.shape)
    array[:, :3] = 0
    array[:, :, -4:] = 0
    image = sitk.GetImageFromArray(np.rint(array).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((-20.0, 13.0, 400.0))
    if direction is not None:
        image.SetDirection(direction.ravel().tolist())
    return image


def _own_prediction(folder: Path, file: Path, *, mirroring: bool = True, folds: tuple[int, ...] = (0,)) -> np.ndarray:
    """The labels of nnunetv2's own predictor and reader, straight from the file."""
    with quietly(), contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
        reader = predictor.plans_manager.image_reader_writer_class()
        array, properties = reader.read_images([str(file)])
        labels = predictor.predict_single_npy_array(array, properties)
        written = file.with_name("own.nii.gz")
        reader.write_seg(labels, str(written), properties)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(written)))


@pytest.fixture
def small_sam() -> SamModel:
    """A SAM of a few thousand random weights."""
    return _small_network()


@pytest.fixture(scope="session")
def small_adapter() -> Callable[..., SamModelAdapter]:
    """Makes a box-prompted model of a few thousand random weights, (settings, seed) -> adapter."""
    return _small_adapter


@pytest.fixture(scope="session")
def blob_ct() -> Callable[..., Volume]:
    """Makes a small CT, (shape, affine) -> volume."""
    return _blob_ct


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of a few thousand weights are slower on several threads, much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def plans_of() -> Callable[..., dict[str, Any]]:
    """Makes nnU-Net's plans of a small network, (dimensions, reader, transpose) -> plans."""
    return _plans_of


@pytest.fixture(scope="session")
def write_results() -> Callable[..., Path]:
    """Writes a small nnU-Net's results folder, (folder, plans, *, regions, folds, channels, seed) -> folder."""
    return _write_results


@pytest.fixture(scope="session")
def scan_image() -> Callable[..., sitk.Image]:
    """Makes a small anisotropic CT, (direction, spacing) -> image."""
    return _scan_image


@pytest.fixture(scope="session")
def own_prediction() -> Callable[..., np.ndarray]:
    """nnunetv2's own labels of a file, (results folder, file, *, mirroring, folds) -> array."""
    return _own_prediction


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a small nnU-Net; not to be changed."""
    return _write_results(tmp_path_factory.mktemp("nnunet") / "nnUNetTrainer__nnUNetPlans__3d_fullres", _plans_of())


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """The file of a small anisotropic CT."""
    sitk.WriteImage(_scan_image(), str(tmp_path / "ct.nii.gz"))
    return tmp_path / "ct.nii.gz"
