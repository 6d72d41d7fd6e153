"""From the names of the segment-anything code to those of transformers' SamModel.

The authors of SAM and MedSAM publish state dicts named after their own modules. Both describe one architecture
(Kirillov et al. 2023), so the tensors move unchanged; every size in the configuration is read off their shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from transformers import SamConfig

from medquant.errors import UserError

_LAYER_NORM = (re.compile(r"^(.*)\.norm(\d)\."), r"\1.layer_norm\2.")

# Within one part of the network, these (pattern, replacement) run over the rest of the name, in this order.
_ENCODER = (
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.projection."),
    (re.compile(r"^blocks\."), "layers."),
    _LAYER_NORM,
    (re.compile(r"^neck\.0\."), "neck.conv1."),
    (re.compile(r"^neck\.1\."), "neck.layer_norm1."),
    (re.compile(r"^neck\.2\."), "neck.conv2."),
    (re.compile(r"^neck\.3\."), "neck.layer_norm2."),
)
MASK_EMBEDDING = (
    (re.compile(r"^mask_downscaling\.0\."), "mask_embed.conv1."),
    (re.compile(r"^mask_downscaling\.1\."), "mask_embed.layer_norm1."),
    (re.compile(r"^mask_downscaling\.3\."), "mask_embed.conv2."),
    (re.compile(r"^mask_downscaling\.4\."), "mask_embed.layer_norm2."),
    (re.compile(r"^mask_downscaling\.6\."), "mask_embed.conv3."),
)
UPSCALING = (
    (re.compile(r"^output_upscaling\.0\."), "upscale_conv1."),
    (re.compile(r"^output_upscaling\.1\."), "upscale_layer_norm."),
    (re.compile(r"^output_upscaling\.3\."), "upscale_conv2."),
)
"""Names that SAM and SAM 2 share."""
_PROMPT = (
    (re.compile(r"^point_embeddings\."), "point_embed."),
    *MASK_EMBEDDING,
)
_MLP = r"^(output_hypernetworks_mlps\.\d+|iou_prediction_head)"
_DECODER = (
    _LAYER_NORM,
    (re.compile(r"^transformer\.norm_final_attn\."), "transformer.layer_norm_final_attn."),
    *UPSCALING,
    (re.compile(_MLP + r"\.layers\.0\."), r"\1.proj_in."),
    (re.compile(_MLP + r"\.layers\.1\."), r"\1.layers.0."),
    (re.compile(_MLP + r"\.layers\.2\."), r"\1.proj_out."),
)
_PARTS = {
    "image_encoder.": ("vision_encoder.", _ENCODER),
    "prompt_encoder.": ("prompt_encoder.", _PROMPT),
    "mask_decoder.": ("mask_decoder.", _DECODER),
}
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# transformers holds the random position matrix twice, once for the image and once for the prompts.
_POSITIONS_TWICE = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
_DECODER_HEADS = 8  # not visible in any shape; the same in every published SAM


def is_segment_anything(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the names are those of the segment-anything code."""
    return any(name.startswith("image_encoder.") for name in state)


def from_segment_anything(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under transformers' names. Names that SAM does not have stay as they are."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name == _POSITIONS:
            renamed.update((twin, tensor) for twin in _POSITIONS_TWICE)
        elif name not in ("pixel_mean", "pixel_std"):
            renamed[_rename(name)] = tensor
    return renamed


def complete_shared_positions(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give both names of the position matrix where a file, as transformers saves it, holds one."""
    held = next((state[name] for name in _POSITIONS_TWICE if name in state), None)
    return state if held is None else {**dict.fromkeys(_POSITIONS_TWICE, held), **state}


def infer_config(state: Mapping[str, torch.Tensor], *, source: str) -> SamConfig:
    """The configuration of a SamModel (ViT-B, L, H or any other size) from its tensors' shapes.

    `state` has transformers' names. Raises `UserError` when a tensor that tells a size is missing.
    """
    try:
        return _infer_config(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"The weights in {source} are not those of a complete SAM or MedSAM ({error} is missing or odd). "
            "Give medsam_vit_b.pth, sam_vit_b/l/h.pth or a folder saved by transformers."
        ) from error


def _infer_config(state: Mapping[str, torch.Tensor]) -> SamConfig:
    patch = state["vision_encoder.patch_embed.projection.weight"].shape
    grid = state["vision_encoder.pos_embed"].shape[1]
    hidden, patch_size = patch[0], patch[-1]
    depth = _count(state, r"^vision_encoder\.layers\.(\d+)\.")
    spans = [state[f"vision_encoder.layers.{i}.attn.rel_pos_h"].shape[0] for i in range(depth)]
    head_size = state["vision_encoder.layers.0.attn.rel_pos_h"].shape[1]
    windowed = [span for span in spans if span != 2 * grid - 1]
    decoder_hidden = state["mask_decoder.iou_token.weight"].shape[1]
    attention_inner = state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0]
    return SamConfig(
        vision_config={
            "hidden_size": hidden,
            "output_channels": state["vision_encoder.neck.conv1.weight"].shape[0],
            "num_hidden_layers": depth,
            "num_attention_heads": hidden // head_size,
            "num_channels": patch[1],
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "mlp_dim": state["vision_encoder.layers.0.mlp.lin1.weight"].shape[0],
            "window_size": (min(windowed) + 1) // 2 if windowed else 0,
            "global_attn_indexes": [i for i, span in enumerate(spans) if span == 2 * grid - 1],
            "num_pos_feats": state[_POSITIONS_TWICE[0]].shape[1],
        },
        prompt_encoder_config={
            "hidden_size": state["prompt_encoder.no_mask_embed.weight"].shape[1],
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "mask_input_channels": state["prompt_encoder.mask_embed.conv2.weight"].shape[0],
        },
        mask_decoder_config={
            "hidden_size": decoder_hidden,
            "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            "num_hidden_layers": _count(state, r"^mask_decoder\.transformer\.layers\.(\d+)\."),
            "num_attention_heads": _DECODER_HEADS,
            "attention_downsample_rate": decoder_hidden // attention_inner,
            "num_multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.proj_in.weight"].shape[0],
        },
    )


def _rename(name: str) -> str:
    for part, (new_part, table) in _PARTS.items():
        if name.startswith(part):
            rest = name[len(part) :]
            for pattern, replacement in table:
                rest = pattern.sub(replacement, rest)
            return new_part + rest
    return name


def _count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    found = [int(match[1]) for name in state if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
