"""The small SAM: its configuration, a start from which it learns, and its weights folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import SamConfig, SamModel

from medquant.files import atomic_path

IMAGE_SIZE = 256
PATCH_SIZE = 8
WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "promptable"

#: What a user of the weights does before and after the network; written to `preprocessor.json`. The zoom cuts a
#: square of `factor` times the box and encodes it anew, where that shows less than `threshold` of the slice;
#: `average`: its logits are averaged with the whole slice's.
PREPROCESSOR = {
    "image_size": IMAGE_SIZE,
    "mean": 0.4,
    "std": 0.3,
    "channels": "one grey value in 0..1, copied to three channels",
    "ct_window": {"width": 400.0, "level": 40.0},
    "mr_percentiles": [0.5, 99.5],
    "zoom": {"factor": 2.0, "threshold": 1.0, "average": True},
    "postprocess": {"clip_grow": 0.05, "largest_component": True, "fill_holes": True},
    "box": "inclusive pixel indices (x1, y1, x2, y2); (index + 0.5) * scale - 0.5 in the network's frame",
    "licence": "Apache-2.0",
}


def embedded_sam_config() -> SamConfig:
    """SAM of 3.8 million parameters: 256 px, patches of 8, masks of 128 x 128; MedSAM's layout, smaller.

    Windows of 8 tokens, global attention in layers 2 and 5 (counted from 0), no relative positions.
    """
    return SamConfig(
        vision_config={
            "hidden_size": 192,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "mlp_dim": 768,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "window_size": 8,
            "global_attn_indexes": [2, 5],
            "output_channels": 128,
            "num_pos_feats": 64,
            "use_rel_pos": False,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": 128, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "iou_head_hidden_dim": 128,
        },
    )


def initial_model(images: np.ndarray, seed: int) -> SamModel:
    """A model that starts to learn at once; `images` uint8 (n, 256, 256) give the statistics of patches.

    The library's own start is made for loading weights: its tiny deviations keep the encoder collapsed.
    Linear layers get variance 1 / inputs, residual branches less; the patch embedding whitens patches.
    """
    torch.manual_seed(seed)
    config = embedded_sam_config()
    config._attn_implementation = "eager"  # on processors its gradient is the quicker one
    model = SamModel(config)
    depth = config.vision_config.num_hidden_layers
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
                if name.startswith("vision_encoder.layers") and name.endswith((".proj", ".lin2")):
                    module.weight.mul_((2 * depth) ** -0.5)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                inputs = module.in_channels * (
                    module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
                )
                nn.init.normal_(module.weight, std=inputs**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
        model.vision_encoder.pos_embed.copy_(0.5 * _sine_positions(config))
        # Frequencies from coarse to fine: coarse ones tell inside from outside, fine ones the box's edge.
        directions = torch.randn(2, config.vision_config.num_pos_feats)
        scale = torch.logspace(-0.7, 0.6, config.vision_config.num_pos_feats)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(directions * scale)
        weight, bias = _whitening(images, config.vision_config.hidden_size, seed)
        model.vision_encoder.patch_embed.projection.weight.copy_(weight)
        model.vision_encoder.patch_embed.projection.bias.copy_(bias)
    model.tie_weights()
    return model


def _sine_positions(config: SamConfig) -> torch.Tensor:
    """Sines and cosines of row and column, (1, grid, grid, hidden)."""
    grid, hidden = config.vision_config.image_size // PATCH_SIZE, config.vision_config.hidden_size
    frequency = torch.logspace(0, -1.6, hidden // 4) * (torch.pi / 4)
    phase = torch.arange(grid)[:, None] * frequency
    along = torch.cat([phase.sin(), phase.cos()], 1)
    rows, columns = along[:, None].expand(-1, grid, -1), along[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], 2)[None]


def _whitening(images: np.ndarray, hidden: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (hidden, 3, 8, 8) and bias of random orthogonal x regularised PCA whitening of patches."""
    rng = np.random.default_rng([seed, 1])
    grey = (images.astype(np.float32) / 255 - PREPROCESSOR["mean"]) / PREPROCESSOR["std"]
    patches = grey.reshape(len(grey), 32, PATCH_SIZE, 32, PATCH_SIZE).transpose(0, 1, 3, 2, 4)
    patches = patches.reshape(-1, PATCH_SIZE**2)
    mean = patches.mean(0)
    variance, axes = np.linalg.eigh(np.cov((patches - mean).T))
    whiten = axes / np.sqrt(variance + max(0.02 * variance.mean(), 1e-6))  # images of nothing but air do not vary
    orthogonal = np.linalg.qr(rng.standard_normal((hidden, PATCH_SIZE**2)))[0] * np.sqrt(hidden / PATCH_SIZE**2)
    weight = orthogonal @ whiten.T
    bias = -weight @ mean
    kernel = torch.from_numpy(weight).float().reshape(hidden, 1, PATCH_SIZE, PATCH_SIZE)
    return kernel.expand(-1, 3, -1, -1) / 3, torch.from_numpy(bias).float()


def save_weights(model: SamModel, folder: Path, summary: dict) -> None:
    """Write `config.json`, `model.safetensors` (fp16), `preprocessor.json`, `training.json`, each whole."""
    from safetensors.torch import save_file

    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    for alias in list(model.all_tied_weights_keys):  # a tied tensor is stored once
        state.pop(alias, None)
    config = model.config.to_dict() | {"architectures": ["SamModel"], "dtype": "float32"}
    with atomic_path(folder / "model.safetensors") as path:
        save_file(state, path, metadata={"format": "pt"})
        path.chmod(0o644)
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with atomic_path(folder / "preprocessor.json") as path:
        path.write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")
    with atomic_path(folder / "training.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path = WEIGHTS_FOLDER) -> SamModel:
    """The model of a weights folder in float32, ready for inference."""
    return SamModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
