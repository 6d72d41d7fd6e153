"""Networks whose authors publish weights: read from the authors' files, preprocessed as the authors state it.

What a file's shapes tell of the network is taken from them, so weights that were trained anew with the authors' code
load as well. What they do not tell is in `ARCHITECTURES`, each with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.models import published_arguments as arguments_of
from medquant.models.patchwise import PatchwiseModel, plain, window_spec
from medquant.models.volume_preprocessing import VolumePreprocessing
from medquant.models.weight_files import fill, read_state_dict

State = Mapping[str, torch.Tensor]
Arguments = dict[str, Any]

_BTCV = VolumePreprocessing(orientation="RAS", spacing=(2.0, 1.5, 1.5), intensity="range")

VISTA3D_CLASSES = {
    "liver": 1,
    "spleen": 3,
    "pancreas": 4,
    "right kidney": 5,
    "aorta": 6,
    "inferior vena cava": 7,
    "right adrenal gland": 8,
    "left adrenal gland": 9,
    "gallbladder": 10,
    "esophagus": 11,
    "stomach": 12,
    "duodenum": 13,
    "left kidney": 14,
    "bladder": 15,
    "portal vein and splenic vein": 17,
}
"""VISTA3D's numbers of abdominal structures: what is asked for where nothing is."""


@dataclass(frozen=True)
class Architecture:
    """A network with published weights."""

    title: str
    build: Callable[[Arguments], nn.Module]
    arguments: Callable[[State], Arguments]
    """From the shapes of the weights."""
    preprocessing: VolumePreprocessing
    roi_size: Callable[[Arguments], tuple[int, int, int]]
    overlap: float
    convert: Callable[[State], State] = dict
    """The authors' weights as the network here takes them."""
    channels: str = "channels"
    """Which argument counts the input's channels."""


def _segformer3d(arguments: Arguments) -> nn.Module:
    from medquant.models.networks.segformer3d import SegFormer3D

    return SegFormer3D(**arguments)


def _transunet(arguments: Arguments) -> nn.Module:
    from medquant.models.networks.transunet import TransUNet

    return TransUNet(**arguments)


def _standardized(state: State) -> State:
    from medquant.models.networks.transunet import with_standard_weights

    return with_standard_weights(state)


def _unest(arguments: Arguments) -> nn.Module:
    from medquant.models.networks.unest import UNesT

    return UNesT(**arguments)


def _medformer(arguments: Arguments) -> nn.Module:
    from medquant.models.networks.medformer import MedFormer

    return MedFormer(**arguments)


def _swin_unetr(arguments: Arguments) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    with torch.device("cpu"):  # it computes a schedule while it is built, which the meta device cannot
        return SwinUNETR(**arguments)


def _unetr(arguments: Arguments) -> nn.Module:
    from monai.networks.nets import UNETR

    network = UNETR(**arguments)
    for block in network.vit.blocks:
        block.norm_cross_attn, block.cross_attn = nn.Identity(), nn.Identity()  # held for other uses, and never run
    return network


def _without_unused_blocks(state: State) -> State:
    """Without the convolutions on shortcuts that MONAI before 0.9 made in every residual block and did not always run.

    It ran them where a block changes the number of channels, as it does today, and none of these networks' blocks has
    a stride. Weights that were published in 2022 hold the others too.
    """
    return {name: tensor for name, tensor in state.items() if not _unused_shortcut(name, state)}


def _unused_shortcut(name: str, state: State) -> bool:
    block = name.removesuffix(".conv3.conv.weight")
    first = state.get(f"{block}.conv1.conv.weight")
    if block == name or first is None:
        return False
    out_channels, channels = first.shape[:2]
    return channels == out_channels and tuple(state[name].shape) == (channels, channels, 1, 1, 1)


def _without_unused_in_unetr(state: State) -> State:
    """UNETR's weights are older than cross-attention in MONAI's blocks, newer ones hold it unused; and until 0.9 they
    held a token for classification, of which a segmentation makes no use."""
    return {
        name: tensor
        for name, tensor in _without_unused_blocks(state).items()
        if "cross_attn." not in name and name != "vit.patch_embedding.cls_token"
    }


def _vista3d(arguments: Arguments) -> nn.Module:
    from medquant.models.networks.vista3d import AutomaticVISTA3D

    return AutomaticVISTA3D(len(arguments["classes"]), width=arguments["width"])


def _cube(side: int) -> Callable[[Arguments], tuple[int, int, int]]:
    return lambda arguments: (side, side, side)


ARCHITECTURES = {
    # BTCV weights of the research contributions of MONAI: SwinUNETR/BTCV, UNETR/BTCV.
    "swinunetr": Architecture(
        "SwinUNETR", _swin_unetr, arguments_of.swin_unetr, _BTCV, _cube(96), 0.5, _without_unused_blocks,
        channels="in_channels",
    ),
    "unetr": Architecture(
        "UNETR", _unetr, arguments_of.unetr, _BTCV, lambda a: tuple(a["img_size"]), 0.5, _without_unused_in_unetr,
        channels="in_channels",
    ),
    # The authors' inference for BTCV; for the whole brain give VolumePreprocessing(intensity="nonzero-zscore").
    "unest": Architecture(
        "UNesT", _unest, arguments_of.unest, VolumePreprocessing(spacing=(2.0, 1.5, 1.5), intensity="range"),
        lambda a: (a["size"],) * 3, 0.7, _without_unused_blocks,
    ),
    # The authors' BTCV ("bcv") configuration: clipped, then mean 82.92 and deviation 136.97.
    "medformer": Architecture(
        "MedFormer", _medformer, arguments_of.medformer,
        VolumePreprocessing(
            spacing=(3.0, 0.75, 0.75), intensity="range", axes="kji", source_range=(-958.0, 327.0),
            target_range=((-958.0 - 82.92) / 136.97, (327.0 - 82.92) / 136.97),
        ),
        lambda a: (32, 128, 128) if list(a["scales"][0]) == [1, 2, 2] else (128, 128, 128), 0.5,
    ),
    # BraTS weights are published, of four channels; weights of one channel take a scan whose mean is 0, deviation 1.
    "segformer3d": Architecture(
        "SegFormer3D", _segformer3d, arguments_of.segformer3d,
        VolumePreprocessing(orientation="RAS", intensity="nonzero-zscore"), _cube(128), 0.5,
    ),
    # The authors' preparation of Synapse (BTCV): axial slices of 224 x 224.
    "transunet": Architecture(
        "TransUNet", _transunet, arguments_of.transunet,
        VolumePreprocessing(orientation="LPS", intensity="range", source_range=(-125.0, 275.0), axes="kji", side=224),
        lambda a: (1, a["size"], a["size"]), 0.5, _standardized,
    ),
    # The bundle's and the repository's configs/infer.yaml.
    "vista3d": Architecture(
        "VISTA3D", _vista3d, dict,
        VolumePreprocessing(
            orientation="RAS", spacing=(1.5, 1.5, 1.5), intensity="range",
            source_range=(-963.8247715525971, 1053.678477684517),
        ),
        _cube(128), 0.625,
    ),
}  # fmt: skip
"""By the name that `load_model` takes as "published:NAME"."""


class PublishedModel(PatchwiseModel):
    """A network from `ARCHITECTURES` with a sliding window."""

    family = "published"

    @classmethod
    def _untrained(cls, spec: dict[str, Any]) -> nn.Module:
        network = _for_inference(architecture(spec["network"]).build(spec["arguments"]))
        return network.to_empty(device="cpu") if next(network.parameters()).is_meta else network

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        network: str,
        labels: dict[str, int] | None = None,
        roi_size: tuple[int, int, int] | None = None,
        overlap: float | None = None,
        preprocessing: VolumePreprocessing | dict[str, Any] | None = None,
        name: str | None = None,
        modality: str = "",
        licence: str = "",
    ) -> PublishedModel:
        """Load a checkpoint in the authors' layout.

        `labels`: names and their numbers; of VISTA3D those that are looked for, which are then numbered from 1 in the
        order given. `roi_size`, `overlap`, `preprocessing`: None as the authors state them. Raises `UserError` for an
        unknown network, for weights that do not fit it, and for weights of other than one input channel.
        """
        source = Path(source).expanduser()
        kind = architecture(network)
        state = read_state_dict(source)
        if network.lower() == "vista3d":
            labels = dict(labels or VISTA3D_CLASSES)
            arguments, state = _read_vista3d(state, tuple(labels.values()), source.name)
            labels = {known: number for number, known in enumerate(labels, start=1)}
        else:
            arguments = _arguments(kind, state, source.name)
        with torch.device("meta"):
            built = kind.build(arguments)
        fill(built, kind.convert(state), source=source.name, what=f"{kind.title} of these sizes")
        window = kind.roi_size(arguments) if roi_size is None else roi_size
        settings = kind.preprocessing if preprocessing is None else preprocessing
        spec = {
            "family": cls.family,
            "name": name or f"{kind.title} {source.stem}",
            "network": network.lower(),
            "arguments": plain(arguments),
            **window_spec(window, kind.overlap if overlap is None else overlap, settings, labels),
            "modality": modality,
            "licence": licence,
            "weights_hash": sha256_of_file(source),
            "weights_bytes": source.stat().st_size,
        }
        return cls._around(_for_inference(built), spec)

    def row_focus(
        self, layer: str, module: nn.Module, grid: tuple[int, ...], focus: torch.Tensor | None
    ) -> torch.Tensor | None:
        """A network of slices sees windows of one slice, without their first axis."""
        flat = focus is not None and self.roi_size[0] == 1
        return super().row_focus(layer, module, grid, focus[:, 0] if flat else focus)


def architecture(name: str) -> Architecture:
    """The architecture of that name. Raises `UserError` for an unknown one."""
    if name.lower() not in ARCHITECTURES:
        raise UserError(f"There is no published network {name!r} here. Choose one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name.lower()]


def _told(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else "sizes that do not fit"


def _arguments(kind: Architecture, state: State, source: str) -> Arguments:
    try:
        arguments = kind.arguments(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"The weights in {source} are not those of {kind.title} ({_told(error)}). "
            "Choose the model that these weights belong to, or other weights."
        ) from error
    channels = arguments.get(kind.channels, 1)
    if channels != 1:
        raise UserError(
            f"The {kind.title} in {source} takes {channels} channels, a scan here is one. "
            "Choose weights of one channel."
        )
    return arguments


def _read_vista3d(state: State, classes: tuple[int, ...], source: str) -> tuple[Arguments, State]:
    """Arguments and weights of the automatic branch; all of the published weights are checked."""
    from medquant.models.networks.vista3d import automatic_state, whole_vista3d

    embeddings = state.get("class_head.class_embeddings.weight")
    if embeddings is None or embeddings.ndim != 2:
        raise UserError(
            f"The weights in {source} are not those of VISTA3D in MONAI's names (class_head.class_embeddings.weight is "
            "missing). Choose the model.pt of the bundle for MONAI 1.4 or later."
        )
    wrong = [number for number in classes if not 0 < number < len(embeddings)]
    if wrong or not classes:
        raise UserError(f"VISTA3D has no classes {wrong}. Give numbers from 1 to {len(embeddings) - 1}.")
    width = embeddings.shape[1]
    with torch.device("meta"):
        whole = whole_vista3d(width)
    fill(whole, state, source=source, what="VISTA3D")
    return {"classes": list(classes), "width": width}, automatic_state(state, classes)


def _for_inference(network: nn.Module) -> nn.Module:
    """Without the layers that only training runs."""
    if hasattr(network, "drop_training_outputs"):
        network.drop_training_outputs()
    return network
