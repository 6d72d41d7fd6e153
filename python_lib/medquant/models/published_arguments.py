"""What the shapes of published weights say of their network: its arguments.

Every function takes the state dict of one architecture in its authors' names. `KeyError` or `IndexError` where the
names are those of another network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

State = Mapping[str, torch.Tensor]


def swin_unetr(state: State) -> dict[str, Any]:
    """SwinUNETR (Hatamizadeh et al., 2022): tiny, small and base have 12, 24 and 48 features."""
    features, channels = state["swinViT.patch_embed.proj.weight"].shape[:2]
    stages = (f"swinViT.layers{n}.0.blocks" for n in range(1, 5))
    return {
        "in_channels": channels,
        "out_channels": state["out.conv.conv.weight"].shape[0],
        "feature_size": features,
        "depths": [_count(state, stage) for stage in stages],
        "num_heads": [state[f"swinViT.layers{n}.0.blocks.0.attn.relative_position_bias_table"].shape[1]
                      for n in range(1, 5)],
        "use_v2": any(name.startswith("swinViT.layers1c.") for name in state),
    }  # fmt: skip


def unetr(state: State) -> dict[str, Any]:
    """UNETR (Hatamizadeh et al., 2022) with patches of 16; heads of 64 channels, as published."""
    embedding = state["vit.patch_embedding.position_embeddings"]
    width = embedding.shape[2]
    linear = "vit.patch_embedding.patch_embeddings.1.weight"
    return {
        "in_channels": state["encoder1.layer.conv1.conv.weight"].shape[1],
        "out_channels": state["out.conv.conv.weight"].shape[0],
        "img_size": [16 * _cube_root(embedding.shape[1])] * 3,
        "feature_size": state["encoder1.layer.conv1.conv.weight"].shape[0],
        "hidden_size": width,
        "mlp_dim": state["vit.blocks.0.mlp.linear1.weight"].shape[0],
        "num_heads": max(1, width // 64),
        "proj_type": "perceptron" if linear in state else "conv",
    }


def segformer3d(state: State) -> dict[str, Any]:
    """SegFormer3D: heads of 32 channels, as published."""
    stages = range(1, 5)
    encoder, decoder = "segformer_encoder", "segformer_decoder"
    embeddings = [state[f"{encoder}.embed_{n}.patch_embeddings.weight"] for n in stages]
    widths = [weight.shape[0] for weight in embeddings]
    first = [f"{encoder}.tf_block{n}.0" for n in stages]
    return {
        "channels": embeddings[0].shape[1],
        "classes": state[f"{decoder}.linear_pred.weight"].shape[0],
        "widths": widths,
        "depths": [_count(state, f"{encoder}.tf_block{n}") for n in stages],
        "heads": [max(1, width // 32) for width in widths],
        "reductions": [_side(state.get(f"{block}.attention.sr.weight")) for block in first],
        "ratios": [state[f"{b}.mlp.fc1.weight"].shape[0] // w for b, w in zip(first, widths)],
        "kernels": [weight.shape[-1] for weight in embeddings],
        "decoder_width": state[f"{decoder}.linear_pred.weight"].shape[1],
    }


def transunet(state: State) -> dict[str, Any]:
    """TransUNet with a ResNet (R50-ViT-B_16): twelve heads, as published."""
    embeddings = "transformer.embeddings"
    stem, places = state[f"{embeddings}.hybrid_model.root.conv.weight"], state[f"{embeddings}.position_embeddings"]
    body = f"{embeddings}.hybrid_model.body"
    return {
        "classes": state["segmentation_head.0.weight"].shape[0],
        "size": 16 * math.isqrt(places.shape[1]),
        "units": [_count(state, rf"{body}.block{n}", number=r"unit(\d+)", start=1) for n in (1, 2, 3)],
        "resnet_width": stem.shape[0],
        "width": places.shape[2],
        "depth": _count(state, "transformer.encoder.layer"),
        "heads": 12,
        "inner": state["transformer.encoder.layer.0.ffn.fc1.weight"].shape[0],
        "first": state["decoder.conv_more.0.weight"].shape[0],
        "decoder": [state[f"decoder.blocks.{n}.conv1.0.weight"].shape[0] for n in range(4)],
    }


def unest(state: State) -> dict[str, Any]:
    """UNesT: heads of 32 channels, as published."""
    levels = range(_count(state, "nestViT.levels"))
    places = [state[f"nestViT.levels.{n}.pos_embed"] for n in levels]
    widths = [embedding.shape[3] for embedding in places]
    side = state["nestViT.patch_embed.proj.weight"].shape[-1]
    return {
        "classes": state["out.conv.conv.weight"].shape[0],
        "size": side * _cube_root(places[0].shape[1] * places[0].shape[2]),
        "widths": widths,
        "heads": [max(1, width // 32) for width in widths],
        "depths": [_count(state, f"nestViT.levels.{n}.transformer_encoder") for n in levels],
    }


def medformer(state: State) -> dict[str, Any]:
    """MedFormer with the heads of the authors' configurations for CT (1, 4, 8, 10 down, 8, 4, 1, 1 up)."""
    down, up = ([f"{way}{n}" for n in range(1, 5)] for way in ("down", "up"))
    widths = [state[f"{stage}.patch_merging.reduction.pointwise.weight"].shape[0] for stage in down]
    third, fourth = ((state[f"{stage}.conv_blocks.0.conv2.conv.weight"].shape[0]) for stage in up[2:])
    widths += [state[f"{stage}.map_reduction.weight"].shape[0] for stage in up[:2]] + [third, fourth]
    entering = [state["inc.conv1.weight"].shape[0], *widths]
    kernels = [state["inc.conv1.weight"].shape[2:]]
    kernels += [state[f"{stage}.patch_merging.reduction.depthwise.weight"].shape[2:] for stage in down]
    merged = [state[f"{s}.patch_merging.reduction.depthwise.weight"].shape[0] // e for s, e in zip(down, entering)]
    fused = state["map_fusion.in_proj.0.weight"].shape[0]
    wide = state["down2.trans_blocks.blocks.0.feedforward.expand_proj.conv.weight"].shape
    return {
        "channels": state["inc.conv1.weight"].shape[1],
        "classes": state["outc.weight"].shape[0],
        "stem": entering[0],
        "widths": widths,
        "convolutions": [_count(state, f"{stage}.conv_blocks") for stage in (*down, *up)],
        "attentions": [_count(state, f"{stage}.trans_blocks.blocks") for stage in (*down, *up)],
        "heads": [1, 4, 8, 10, 8, 4, 1, 1],
        "scales": [{8: [2, 2, 2], 4: [1, 2, 2]}[count] for count in merged],
        "kernels": [list(kernel) for kernel in kernels],
        "map_size": [_cube_root(state["down2.map_gen.semantic_proj.weight"].shape[0])] * 3,
        "expansion": wide[0] // wide[1],
        "fusion_width": fused,
        "fusion_depth": _count(state, "map_fusion.fusion.layers"),
        "fusion_heads": 10,
        "auxiliary": "aux_out.weight" in state,
    }


def _count(state: State, prefix: str, *, number: str = r"(\d+)", start: int = 0) -> int:
    """How many numbered modules lie below `prefix`."""
    pattern = re.compile(rf"{re.escape(prefix)}\.{number}\.")
    found = [int(match[1]) for name in state if (match := pattern.match(name))]
    return max(found, default=start - 1) + 1 - start


def _cube_root(count: int) -> int:
    return round(count ** (1 / 3))


def _side(weight: torch.Tensor | None) -> int:
    return 1 if weight is None else weight.shape[-1]
