"""Where the weights of a box-prompted model come from: a folder saved by transformers, or one weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import SamConfig

from medquant.errors import UserError
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.weight_files import read_json


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
    return file, SamConfig.from_dict(data), settings


def is_plain_sam(source: Path) -> bool:
    """Whether the name is that of SAM's own weights (sam_vit_b_01ec64.pth, sam-vit-base)."""
    name = source.name.lower().replace("-", "_")
    return "sam_vit" in name and "medsam" not in name


def plain_config(config: SamConfig) -> dict[str, Any]:
    """The configuration as plain data, without what says nothing about the network."""
    own = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    noise = {"transformers_version", "id2label", "label2id", "architectures", "dtype", "_name_or_path", "problem_type"}
    data = config.to_dict()
    return {"model_type": "sam"} | {k: {n: v for n, v in data[k].items() if n not in noise} for k in own}
