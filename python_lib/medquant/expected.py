"""How large a quantized model will be, told from its layers alone, before anything is computed."""

from __future__ import annotations

from medquant.granularity import PerGroup
from medquant.matrices import Layout, is_quantizable
from medquant.models.base import Model
from medquant.network_edit import stored_bits_of
from medquant.packing import STORED_BITS
from medquant.recipe import IntWeights, Recipe

_HEADER, _DESCRIPTION = 100, 1000
"""Bytes in the file for each tensor, and for what is said of each quantized layer."""


def expected_bytes(model: Model, recipe: Recipe) -> int:
    """Bytes of the file that `quantize` and `save` would write, within some per cent.

    Layers that calibration finds dead or keeps for another reason, what rewrites store and a redesign are not foreseen.
    """
    layers = {name: module for name, module in model.network.named_modules() if is_quantizable(module)}
    chosen = recipe.weights_for({name: module.weight.numel() for name, module in layers.items()})
    bits = headers = described = 0
    for name, module in model.network.named_modules():
        grid = chosen.get(name) if name in layers else None
        for key, tensor in module.named_parameters(recurse=False):
            headers += 1
            if grid is not None and key == "weight":
                bits += _stored(Layout.of(module), grid)
                headers += 2
                described += 1
            else:
                bits += tensor.numel() * (16 if tensor.numel() >= 1024 else stored_bits_of(tensor))
    return bits // 8 + _HEADER * headers + _DESCRIPTION * described


def _stored(layout: Layout, grid: IntWeights) -> int:
    """Bits of a layer's codes, scales and offsets."""
    rows = layout.rows
    runs = -(-rows // grid.granularity.size) if isinstance(grid.granularity, PerGroup) else 1
    numbers = 1 if grid.symmetric else 2
    scales = layout.groups * runs * layout.columns // layout.share * numbers * (32 if grid.bits > 6 else 16)
    codes = layout.groups * rows * layout.columns * STORED_BITS[grid.bits]
    order = layout.groups * rows * 8 if runs > 1 else 0
    return codes + scales + order
