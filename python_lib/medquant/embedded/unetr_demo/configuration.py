"""The network of the demonstration UNETR, and how a scan reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from medquant.embedded.phantom import LABEL_NAMES
from medquant.embedded.weights_folder import write_weights_folder
from medquant.models.monai_networks import MonaiModel

WINDOW = (48, 96, 96)
"""Voxels (k, j, i) of 4 mm: the whole of a phantom, whose position is what a transformer can go by."""

OPTIONS: dict[str, Any] = {
    "name": "embedded-unetr",
    "network": "UNETR",
    "arguments": {
        "in_channels": 1,
        "out_channels": 1 + len(LABEL_NAMES),
        "img_size": list(WINDOW),
        "feature_size": 8,
        "hidden_size": 64,
        "mlp_dim": 192,
        "num_heads": 4,
    },
    "roi_size": list(WINDOW),
    "overlap": 0.5,
    "preprocessing": {
        "orientation": "LPS",
        "spacing": [4.0, 4.0, 4.0],
        "intensity": "range",
        "source_range": [-200.0, 300.0],
        "axes": "kji",
    },
    "labels": {name: value for value, name in LABEL_NAMES.items()},
    "modality": "CT",
    "licence": "Apache-2.0",
}
"""What `MonaiModel.load` takes beside the weights."""


def untrained() -> MonaiModel:
    """The adapter around the network as it is before training."""
    structures = [[value, name] for value, name in LABEL_NAMES.items()]
    return MonaiModel.from_spec({**OPTIONS, "structures": structures})


def save_weights(network: nn.Module, folder: Path, summary: dict[str, Any]) -> None:
    """Write `model.safetensors` (fp16), `model.json` and `training.json`, each whole."""
    write_weights_folder(network, OPTIONS, summary, folder)
