"""STU-Net as published: a file of nnU-Net version 1, read as the results folder that version 2 would have made.

Source: the authors' repository (trainers, plan_files) and Huang et al., 2023 (arXiv 2304.06716). All four published
sizes have the same plans: 1.5 mm, patches of 128, grey values to mean 0 and deviation 1 over the whole scan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.models.catalogue import STUNET_SUFFIX
from medquant.models.networks.stunet import SIZES, STUNet
from medquant.models.nnunet_folder import ResultsFolder
from medquant.models.weight_files import numpy_types, read_checkpoint, read_json, strip_wrappers

SUFFIX = STUNET_SUFFIX
LABELS = "label_orders.json"
"""What the authors call the names of the labels; read where it lies beside the weights."""
_STRIDES = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))


def build_stunet(
    trainer: str, class_name: str, arguments: dict[str, Any], imports: Any, channels: int, classes: int
) -> nn.Module:
    """The network of STU-Net's trainer of that name, called as nnunetv2 calls builders.

    The size is in the trainer's name ("STUNetTrainer_large_ft"; without one: base). Of the plans the strides alone
    count, brought to five steps. Raises `ValueError` for a size that there is not.
    """
    size = next((part for part in trainer.split("_")[1:] if part in SIZES), "base")
    strides = [list(step) for step in arguments["strides"][1:6]]
    if any(len(step) != 3 for step in strides):
        raise ValueError("STU-Net is a network of three dimensions")
    strides += [[1, 1, 1]] * (len(_STRIDES) - len(strides))
    depth, width = SIZES[size]
    return STUNet(channels, classes, depth=depth, width=width, strides=strides)


def read_published(file: Path) -> ResultsFolder:
    """The weights of a `.model` file (small_ep4k.model and its like) with the plans that they were trained by.

    Labels have the names in `label_orders.json` beside the file, else numbers. Raises `UserError` for a file that
    cannot be read or holds another network.
    """
    content = read_checkpoint(file, allowed=numpy_types())
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(torch.is_tensor(tensor) for tensor in state.values()):
        raise UserError(f"{file.name} holds no state_dict as nnU-Net version 1 writes it. Get the file again.")
    state = strip_wrappers(state)
    size, classes = _size_of(state, file)
    return ResultsFolder(
        plans=_plans(),
        dataset={"channel_names": {"0": "CT"}, "labels": _labels(file, classes), "file_ending": ".nii.gz"},
        configuration="3d_fullres",
        trainer=f"STUNetTrainer_{size}",
        folds=("0",),
        mirroring_axes=(0, 1, 2),
        states=(state,),
        weights_hash=sha256_of_file(file),
        weights_bytes=file.stat().st_size,
    )


def _size_of(state: dict[str, torch.Tensor], file: Path) -> tuple[str, int]:
    """The name of the size and the number of classes, background included."""
    first, last = state.get("conv_blocks_context.0.0.conv1.weight"), state.get("seg_outputs.4.weight")
    width = None if first is None else first.shape[0]
    size = next((name for name, (_, channels) in SIZES.items() if channels == width), None)
    if size is None or last is None:
        raise UserError(
            f"{file.name} is not STU-Net of a published size. Give small, base, large or huge of the authors' page, or "
            "a results folder of nnU-Net version 2."
        )
    return size, last.shape[0]


def _labels(file: Path, classes: int) -> dict[str, int]:
    named = {}
    if (file.parent / LABELS).is_file():
        named = {int(number): str(name) for number, name in read_json(file.parent / LABELS).items()}
        if sorted(named) != list(range(classes)):
            raise UserError(
                f"{LABELS} beside {file.name} names {len(named)} labels, the network has {classes}. "
                "Get the one that belongs to these weights, or move it elsewhere."
            )
    return {"background": 0} | {named.get(n, f"structure {n}").replace("_", " "): n for n in range(1, classes)}


def _plans() -> dict[str, Any]:
    """The authors' plans as version 2 writes them."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetData_plans_v2.1",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [128, 128, 128],
        "median_image_size_in_voxels": [228.0, 228.0, 240.0],
        "spacing": [1.5, 1.5, 1.5],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            # Named because plans must name one; the trainer builds its own.
            "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
            "arch_kwargs": {"n_stages": 6, "strides": [[1, 1, 1], *(list(step) for step in _STRIDES)]},
            "_kw_requires_import": [],
        },
        "batch_dice": True,
    }
    return {
        "dataset_name": "STU-Net",
        "plans_name": "nnUNetPlansv2.1",
        "original_median_spacing_after_transp": [1.5, 1.5, 1.5],
        "original_median_shape_after_transp": [228, 228, 240],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner3D_v21",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }
