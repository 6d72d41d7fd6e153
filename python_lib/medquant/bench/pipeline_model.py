"""A full-size nnU-Net for benchmarks: random features, and a last layer that was fitted to know organs by them.

PlainConvUNet of nnU-Net's usual size for 3-D CT (six stages, 30.8 million parameters, patches of 96^3 voxels of
1.5 mm). Time and memory do not depend on the values of weights; labels do, and those of a wholly random network are
noise in which every rounding shows. So its last layer, one weight for each of 32 features and class, is a ridge
regression (Hoerl and Kennard 1970) of the phantom's labels. It is no model for any use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.models.nnunet_folder import quietly

PATCH = (96, 96, 96)
SPACING = (1.5, 1.5, 1.5)
CONFIGURATION = "3d_fullres"
_RIDGE = 1e-3
_SHARPNESS = 12.0
"""Factor of the logits: the regression's answers are about 0 to 1."""


def write_model(folder: Path) -> Path:
    """Write the results folder. Returns it. Takes some ten seconds."""
    from medquant.embedded.phantom import make_phantom

    array, labels, names, _ = make_phantom(seed=0, shape=(96, 192, 192), spacing=SPACING)
    plans, dataset = plans_json(array, labels), dataset_json(names)
    torch.manual_seed(0)
    network = _network(plans, len(names) + 1)
    with torch.inference_mode():
        _fit_last_layer(network, _normalised(array, plans), torch.from_numpy(labels).long(), len(names) + 1)
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def dataset_json(names: dict[int, str]) -> dict[str, Any]:
    """nnU-Net's description of the data."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: label for label, name in names.items()}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


def plans_json(array: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """nnU-Net's plans, as its planner would write them for CT of these intensities."""
    inside = array[labels > 0].astype(np.float64)
    low, high = np.percentile(inside, (0.5, 99.5))
    intensities = {
        "max": float(inside.max()),
        "mean": float(inside.mean()),
        "median": float(np.median(inside)),
        "min": float(inside.min()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
        "std": float(inside.std()),
    }
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset998_Benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(SPACING),
        "original_median_shape_after_transp": [200, 270, 270],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(PATCH),
                "median_image_size_in_voxels": [200.0, 270.0, 270.0],
                "spacing": list(SPACING),
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "architecture": _architecture(),
                "batch_dice": False,
            }
        },
    }


def _architecture() -> dict[str, Any]:
    stages = 6
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [32, 64, 128, 256, 320, 320],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _network(plans: dict[str, Any], classes: int) -> nn.Module:
    """Initialised as for training: He et al. 2015."""
    with quietly():
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        classes,
        deep_supervision=False,
    ).eval()


def _normalised(array: np.ndarray, plans: dict[str, Any]) -> torch.Tensor:
    seen = plans["foreground_intensity_properties_per_channel"]["0"]
    clipped = np.clip(array.astype(np.float32), seen["percentile_00_5"], seen["percentile_99_5"])
    return torch.from_numpy((clipped - np.float32(seen["mean"])) / np.float32(seen["std"]))


def _fit_last_layer(network: nn.Module, image: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
    """Set the last layer to the ridge regression of the labels by its inputs, every class weighing the same."""
    last = network.decoder.seg_layers[-1]
    features: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    inputs = last.in_channels
    gram, target = torch.zeros(inputs + 1, inputs + 1), torch.zeros(inputs + 1, classes)
    for row in range(0, image.shape[1], PATCH[1]):
        for column in range(0, image.shape[2], PATCH[2]):
            patch = (slice(None), slice(row, row + PATCH[1]), slice(column, column + PATCH[2]))
            network(image[patch][None, None])
            rows = features.pop()[0].flatten(1).T
            rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
            truth = nn.functional.one_hot(labels[patch].flatten(), classes).float()
            weight = (truth / truth.sum(0).clamp(min=1)).sum(1, keepdim=True)
            gram += rows.T @ (rows * weight)
            target += rows.T @ (truth * weight)
    hook.remove()
    solution = torch.linalg.solve(gram + _RIDGE * gram.diagonal().mean() * torch.eye(inputs + 1), target)
    last.weight.copy_(_SHARPNESS * solution[:-1].T.reshape(last.weight.shape))
    last.bias.copy_(_SHARPNESS * solution[-1])
