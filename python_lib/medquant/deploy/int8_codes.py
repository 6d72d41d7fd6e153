"""The int8 weight nearest to a quantized layer's, as integer kernels want it: symmetric, one scale an output."""

from __future__ import annotations

import platform

import torch

from medquant.deploy.machine import features
from medquant.layers import QuantizedLayer

LARGEST_CODE = 127
LARGEST_CODE_WITHOUT_VNNI = 63
"""Before VNNI, x86 kernels of OpenVINO (oneDNN) and onnxruntime add pairs of products in 16 bits, and what does not fit
is clipped without a word: 2 * 255 * 64 fits, 2 * 255 * 127 does not. (oneDNN's guide, "Nuances of int8 computations";
OpenVINO's "Saturation issue"; onnxruntime's `reduce_range`.)"""
BITS_WITHOUT_VNNI = 7
"""The same as a number of bits: of one factor of every product."""
_PARTS = 64


def largest_code_here() -> int:
    """The largest int8 code of a weight that integer kernels on this processor add up without overflow.

    VNNI is there with AVX-512 or, on processors made for notebooks and desktops, with AVX alone: both add in 32 bits.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or "VNNI" in features():
        return LARGEST_CODE
    return LARGEST_CODE_WITHOUT_VNNI


def nearest_int8(layer: QuantizedLayer, largest_code: int = LARGEST_CODE) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (int8, in the weight's shape) and scales (outputs,) whose products are nearest to the decoded weight.

    Exact for grids with an integer or half-integer zero point whose codes fit. Else no weight moves by more than half
    a scale; a scale is at most 1/`largest_code` of the channel's largest weight, or a whole part of the engine's.
    """
    layout = layer.geometry.layout
    weight = layer.weight
    axis = 1 if layout.transposed else 0
    rows = _outputs_first(weight, layout.transposed, layout.groups)
    flat = rows.flatten(1)
    low, high = flat.amin(1).clamp_max(0), flat.amax(1).clamp_min(0)
    tiny = torch.finfo(torch.float32).tiny * 2**24
    scale = torch.maximum(high, -low).clamp_min(tiny) / largest_code
    if layer.row_group is None:
        scale = _best_scale(layer, scale, low, high, flat.shape[1])
    shaped = scale.reshape(-1, *[1] * (rows.ndim - 1))
    codes = (rows / shaped).round_().clamp_(-largest_code - 1, largest_code).to(torch.int8)
    if axis == 1:
        grouped = codes.reshape(layout.groups, weight.shape[1], -1, *weight.shape[2:])
        codes = grouped.transpose(1, 2).reshape(weight.shape).contiguous()
    return codes, scale


def _outputs_first(weight: torch.Tensor, transposed: bool, groups: int) -> torch.Tensor:
    """The weight with its output channels along the first axis, those of all groups in order."""
    if not transposed:
        return weight
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def _best_scale(
    layer: QuantizedLayer, smallest: torch.Tensor, low: torch.Tensor, high: torch.Tensor, inputs: int
) -> torch.Tensor:
    """Among the smallest scale and whole parts of the engine's, the one that moves the channel's levels least.

    An error that all levels have in common adds up over the inputs, where others cancel: it counts so many times.
    """
    step, offset = _grid_by_output(layer)
    levels = offset[:, None] + step[:, None] * torch.arange(2**layer.bits)
    margin = step[:, None] / 2
    used = (levels >= low[:, None] - margin) & (levels <= high[:, None] + margin)
    count = used.sum(1).clamp_min(1)
    best, least = smallest, torch.full_like(smallest, torch.inf)
    for part in range(_PARTS + 1):
        scale = smallest if part == 0 else step / part
        error = torch.where(used, levels - (levels / scale[:, None]).round_() * scale[:, None], 0.0)
        mean = error.sum(1) / count
        cost = error.square().sum(1) / count - mean.square() + inputs * mean.square()
        fits = scale >= smallest * (1 - 1e-5)
        better = fits & (cost < least * (1 - 1e-3))
        best, least = torch.where(better, scale, best), torch.where(better, cost, least)
        if part and not fits.any():
            break
    return best


def _grid_by_output(layer: QuantizedLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset (outputs,) of a layer without groups of rows; 1 and 0 for outputs that have no codes."""
    layout = layer.geometry.layout
    scale = layer.scale.float()[:, 0]
    offset = scale * layer.zero if layer.offset is None else layer.offset.float()[:, 0]
    live = layer.live_outputs
    count = layout.outputs // layout.groups if live is None else int(live.sum())
    scale, offset = (values.expand(len(values), count).reshape(-1) for values in (scale, offset))
    if live is None:
        return scale, offset
    whole = torch.ones(layout.outputs), torch.zeros(layout.outputs)
    whole[0][live], whole[1][live] = scale, offset
    return whole
