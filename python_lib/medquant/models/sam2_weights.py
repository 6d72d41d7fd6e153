"""From the names of the SAM 2 code, in which MedSAM2's authors publish, to those of transformers' Sam2Model.

Sources: Ravi et al., SAM 2: Segment Anything in Images and Videos, 2024; Ma et al., MedSAM2: Segment Anything in 3D
Medical Images and Videos, 2025 (arXiv 2504.03600). The tensors move unchanged. What carries masks from frame to frame
(memory attention, memory encoder, object pointers) is left out: slices are segmented one by one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import torch
from transformers import Sam2Config

from medquant.errors import UserError
from medquant.models.sam_weights import MASK_EMBEDDING, UPSCALING

IMAGE_ENCODER = "image_encoder.trunk.patch_embed.proj.weight"
"""A name that tells SAM 2's weights from others."""

GLOBAL_BLOCKS = {
    (96, (1, 2, 7, 2)): ((5, 7, 9), (8, 4, 14, 7), 1),
    (96, (1, 2, 11, 2)): ((7, 10, 13), (8, 4, 14, 7), 1),
    (112, (2, 3, 16, 3)): ((12, 16, 20), (8, 4, 14, 7), 2),
    (144, (2, 6, 36, 4)): ((23, 33, 43), (8, 4, 16, 8), 2),
}
"""By width and blocks of the stages (tiny, small, base plus, large): which blocks see the whole picture, the windows of
the others, and the heads of the first stage. No shape tells these."""

_OF_VIDEOS = (
    "memory_attention.", "memory_encoder.", "maskmem_tpos_enc", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial",
    "obj_ptr_proj.", "obj_ptr_tpos_proj.", "mask_downsample.",
)  # fmt: skip
_TWO_LAYERS = r"^(.*blocks\.\d+\.mlp|transformer\.layers\.\d+\.mlp)"
_THREE_LAYERS = r"^(output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)"
_NORM = (re.compile(r"^(.*)\.norm(\d)\."), r"\1.layer_norm\2.")
_ENCODER = (
    (re.compile(r"^trunk\.patch_embed\.proj\."), "backbone.patch_embed.projection."),
    (re.compile(r"^trunk\."), "backbone."),
    (re.compile(r"^neck\.convs\.(\d+)\.conv\."), r"neck.convs.\1."),
    _NORM,
    (re.compile(_TWO_LAYERS + r"\.layers\.0\."), r"\1.proj_in."),
    (re.compile(_TWO_LAYERS + r"\.layers\.1\."), r"\1.proj_out."),
)
_PROMPT = (
    (re.compile(r"^pe_layer\.positional_encoding_gaussian_matrix$"), "shared_embedding.positional_embedding"),
    *MASK_EMBEDDING,
)
_DECODER = (
    _NORM,
    (re.compile(r"^transformer\.norm_final_attn\."), "transformer.layer_norm_final_attn."),
    (re.compile(r"\.out_proj\."), ".o_proj."),
    *UPSCALING,
    (re.compile(_TWO_LAYERS + r"\.layers\.0\."), r"\1.proj_in."),
    (re.compile(_TWO_LAYERS + r"\.layers\.1\."), r"\1.proj_out."),
    (re.compile(_THREE_LAYERS + r"\.layers\.0\."), r"\1.proj_in."),
    (re.compile(_THREE_LAYERS + r"\.layers\.1\."), r"\1.layers.0."),
    (re.compile(_THREE_LAYERS + r"\.layers\.2\."), r"\1.proj_out."),
)
_PARTS = {
    "image_encoder.": ("vision_encoder.", _ENCODER),
    "sam_prompt_encoder.": ("prompt_encoder.", _PROMPT),
    "sam_mask_decoder.": ("mask_decoder.", _DECODER),
}
_POINTS = re.compile(r"^sam_prompt_encoder\.point_embeddings\.(\d+)\.weight$")
_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"


def from_sam2(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one picture's way under the names of `Sam2Model`; names that are not known stay as they are."""
    found: dict[str, torch.Tensor] = {}
    points: dict[int, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_OF_VIDEOS):
            continue
        if match := _POINTS.match(name):
            points[int(match[1])] = tensor
        else:
            found["no_memory_embedding" if name == "no_mem_embed" else _renamed(name)] = tensor
    if points:
        found["prompt_encoder.point_embed.weight"] = torch.cat([points[number] for number in sorted(points)])
    if _POSITIONS in found:  # transformers holds it twice, for the image and for the prompts
        found["shared_image_embedding.positional_embedding"] = found[_POSITIONS].clone()
    return found


def infer_config(state: Mapping[str, torch.Tensor], *, image_size: int, source: str) -> Sam2Config:
    """The configuration of weights in SAM 2's names. Raises `UserError` where they are none of a published size."""
    try:
        width = state[IMAGE_ENCODER].shape[0]
        depth = 1 + max(int(m[1]) for n in state if (m := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", n)))
        starts = [n for n in range(depth) if f"image_encoder.trunk.blocks.{n}.proj.weight" in state]
        edges = [0, *starts, depth]
        stages = tuple(after - before for before, after in itertools.pairwise(edges))
        blocks, windows, heads = GLOBAL_BLOCKS[width, stages]
        background = tuple(state["image_encoder.trunk.pos_embed"].shape[2:])
        token = state["sam_mask_decoder.iou_token.weight"].shape[1]
        mlp = state["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"The weights in {source} are not those of MedSAM2 or SAM 2 in a published size ({error}). "
            "Give MedSAM2_latest.pt or another of the authors' files."
        ) from error
    widths = [width * 2**n for n in range(4)]
    side = image_size // 4
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": width,
                "num_attention_heads": heads,
                "image_size": [image_size, image_size],
                "window_positional_embedding_background_size": list(background),
                "blocks_per_stage": list(stages),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [heads * 2**n for n in range(4)],
                "window_size_per_stage": list(windows),
                "global_attention_blocks": list(blocks),
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[side, side], [side // 2, side // 2], [side // 4, side // 4]],
            "fpn_hidden_size": token,
        },
        prompt_encoder_config={"hidden_size": token, "image_size": image_size, "patch_size": 16},
        mask_decoder_config={"hidden_size": token, "mlp_dim": mlp, "iou_head_hidden_dim": token},
    )


def _renamed(name: str) -> str:
    for part, (new_part, table) in _PARTS.items():
        if name.startswith(part):
            rest = name[len(part) :]
            for pattern, replacement in table:
                rest = pattern.sub(replacement, rest)
            return new_part + rest
    return name
