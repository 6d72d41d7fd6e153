"""Where the weights of a box-prompted model come from: a folder saved by transformers, or one weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import SamConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

from medquant.errors import UserError
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.weight_files import read_json

_PARTS = {
    "vision_config": SamVisionConfig,
    "prompt_encoder_config": SamPromptEncoderConfig,
    "mask_decoder_config": SamMaskDecoderConfig,
}


def read_source(source: Path) -> tuple[Path, SamConfig | None, SlicePreprocessing | None]:
    """The weight file of `source`, and, from a folder, its configuration and its own preprocessing.

    Raises `UserError` for a folder that lacks a file or holds another kind of model.
    """
    if not source.is_dir():
        return source, None, None
    if not (source / "config.json").is_file():
        raise UserError(
            f"The folder {source} has no config.json. Give a folder saved by transformers, or a weight file."
        )
    data = read_json(source / "config.json")
    if data.get("model_type") != "sam":
        raise UserError(
            f"The folder {source} holds a {data.get('model_type', 'model of unknown kind')}, not a SAM. "
            "Give a folder of MedSAM or SAM."
        )
    file = next((source / n for n in ("model.safetensors", "pytorch_model.bin") if (source / n).is_file()), None)
    if file is None:
        raise UserError(
            f"The folder {source} has no model.safetensors or pytorch_model.bin. Put the weights beside it."
        )
    own = source / "preprocessor.json"
    settings = SlicePreprocessing.from_weights_folder(read_json(own)) if own.is_file() else None
    return file, sam_config(data), settings


def is_plain_sam(source: Path) -> bool:
    """Whether the name is that of SAM's own weights (sam_vit_b_01ec64.pth, sam-vit-base)."""
    name = source.name.lower().replace("-", "_")
    return "sam_vit" in name and "medsam" not in name


def sam_config(data: dict[str, Any]) -> SamConfig:
    """The configuration from plain data, of which only what shapes the network is taken over.

    A configuration file may also name code to fetch and run (attention kernels); such entries are dropped. Raises
    `UserError` when the values do not make a SAM.
    """
    try:
        return SamConfig(**{name: _own_fields(kind, data[name]) for name, kind in _PARTS.items()})
    except (KeyError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise UserError(
            f"The configuration does not describe a SAM ({error}). Get config.json again from its source."
        ) from error


def plain_config(config: SamConfig) -> dict[str, Any]:
    """The inverse of `sam_config`."""
    data = config.to_dict()
    return {"model_type": "sam"} | {name: _own_fields(kind, data[name]) for name, kind in _PARTS.items()}


def _own_fields(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    own = [name for name in kind.__annotations__ if name not in ("base_config_key", "model_type")]
    return {name: data[name] for name in own if name in data}
