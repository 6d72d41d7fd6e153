"""The network of the demonstration, how slices reach it, and its weights folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from medquant.embedded.weights_folder import write_weights_folder
from medquant.models.weight_files import fill, read_state_dict

if TYPE_CHECKING:
    from monai.networks.schedulers import RFlowScheduler

SIDE = 64
"""Pixels of a slice, both ways."""
PIXEL_MM = 6.0
WINDOW_HU = (-160.0, 240.0)
"""What is -1 and what is 1 in a slice."""
FOLD = 2
"""Pixels, both ways, that become channels: a lossless stand-in for MAISI's autoencoder, of 4 channels too."""

OPTIONS: dict[str, Any] = {
    "name": "embedded-diffusion",
    "network": "DiffusionModelUNetMaisi",
    "arguments": {
        "spatial_dims": 2,
        "in_channels": FOLD**2,
        "out_channels": FOLD**2,
        "num_channels": [32, 64, 64],
        "attention_levels": [False, False, True],
        "num_head_channels": [0, 0, 16],
        "num_res_blocks": 1,
        "norm_num_groups": 16,
        "include_fc": True,
    },
    "scheduler": {"num_train_timesteps": 1000},
    "side": SIDE,
    "pixel_mm": PIXEL_MM,
    "window_hu": list(WINDOW_HU),
    "licence": "Apache-2.0",
}
"""What `model.json` says beside the weights."""


def untrained() -> nn.Module:
    """The network as it is before training: latents (n, 4, 32, 32) and timesteps (n,) -> velocity (n, 4, 32, 32)."""
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

    return DiffusionModelUNetMaisi(**OPTIONS["arguments"])


def scheduler() -> RFlowScheduler:
    """Rectified flow (Liu et al., ICLR 2023), as MAISI's second version has it: straight ways from noise to image."""
    from monai.networks.schedulers import RFlowScheduler

    return RFlowScheduler(**OPTIONS["scheduler"])


def latents_of(images: torch.Tensor) -> torch.Tensor:
    """Slices (n, 1, 64, 64) in -1..1 -> latents (n, 4, 32, 32); nothing is lost."""
    return functional.pixel_unshuffle(images, FOLD)


def images_of(latents: torch.Tensor) -> torch.Tensor:
    """Latents (n, 4, 32, 32) -> slices (n, 1, 64, 64), cut to -1..1."""
    return functional.pixel_shuffle(latents, FOLD).clamp(-1, 1)


def save_weights(network: nn.Module, folder: Path, summary: dict[str, Any]) -> None:
    """Write `model.safetensors` (fp16), `model.json` and `training.json`, each whole."""
    write_weights_folder(network, OPTIONS, summary, folder)


def load_weights(folder: Path) -> nn.Module:
    """The network of a weights folder in float32, ready for inference. Raises `UserError` where it is not one."""
    file = Path(folder) / "model.safetensors"
    network = untrained()
    fill(network, read_state_dict(file), source=file.name, what="the demonstration's diffusion network")
    return network.eval()
