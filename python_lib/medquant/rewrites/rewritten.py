"""A layer with what was put before and beside it, so that it computes what it did."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medquant.geometry import LayerGeometry
from medquant.layers import divided
from medquant.network_edit import stored_bits_of
from medquant.rewrites.low_rank import branch, branch_shapes
from medquant.rewrites.rotation import hadamard, rotated


class Rewritten(nn.Module):
    """A plain layer, `rewritten`, that gets its input divided by channel and rotated, beside a low-rank branch.

    Buffers and parameters: `divisor` (channels,) or None; `down` and `up`, the branch's weights (see
    `low_rank.branch_shapes`), or None. The layer inside is quantized like any other, and runs on integers where it
    would alone; all the rest is computed in floating point.
    """

    def __init__(
        self,
        layer: nn.Module,
        *,
        divisor: torch.Tensor | None = None,
        order: int = 1,
        down: torch.Tensor | None = None,
        up: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.geometry = LayerGeometry.of(layer)
        self.rewritten = layer
        self.order = order
        """Of the rotation; 1: none."""
        self.register_buffer("divisor", divisor)
        self.register_buffer("matrix", hadamard(order) if order > 1 else None, persistent=False)
        for name, weight in (("down", down), ("up", up)):
            self.register_parameter(name, None if weight is None else nn.Parameter(weight, requires_grad=False))

    @classmethod
    def restored(cls, layer: nn.Module, settings: dict[str, Any]) -> Rewritten:
        """The inverse of `settings` around a layer of the same geometry; tensors are to be filled in."""
        geometry, rank = LayerGeometry.of(layer), settings["rank"]
        channels = geometry.layout.inputs * geometry.groups
        divisor = torch.ones(channels) if settings["divided"] else None
        down, up = (torch.zeros(shape) for shape in branch_shapes(geometry, rank)) if rank else (None, None)
        return cls(layer, divisor=divisor, order=settings["order"], down=down, up=up)

    def settings(self) -> dict[str, Any]:
        """Everything but the tensors: plain data for JSON."""
        rank = 0 if self.down is None else self.down.shape[0]
        return {"divided": self.divisor is not None, "order": self.order, "rank": rank}

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """As the layer inside was before; arguments are named as in torch."""
        if self.divisor is not None:
            input = divided(input, self.divisor, self.geometry)
        if self.matrix is not None:
            axis = -1 if self.geometry.kind == "Linear" else input.ndim - 1 - int(self.geometry.kind[-2])
            input = rotated(input, self.matrix, axis)
        size = () if output_size is None else (output_size,)
        output = self.rewritten(input, *size)
        if self.down is None:
            return output
        return output + branch(input, self.down, self.up, self.geometry, output_size)

    def stored_bits(self) -> int:
        """Bits of what is stored beside the layer inside."""
        parts = [part for part in (self.divisor, self.down, self.up) if part is not None]
        return sum(part.numel() * stored_bits_of(part) for part in parts)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings().items())
