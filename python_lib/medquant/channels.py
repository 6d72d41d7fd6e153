"""Channels that training has switched off, and whose weights need not be stored.

Weight decay drives the weights of unused channels towards zero; in U-Nets a fifth of all weights can be such remains.
Leaving them out costs nothing in accuracy, and the bits that they would have taken buy precision elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from medquant.matrices import Layout, input_rows, spatial_grid

POSITIONS = 2048
SHARE_OF_NOISE = 0.005
"""What may be left out, as a part of the noise that rounding to so many bits makes anyway."""


@dataclass(frozen=True)
class Live:
    """Which input and which output channels (bool) of an ungrouped layer are in use; None where all are."""

    inputs: torch.Tensor | None = None
    outputs: torch.Tensor | None = None

    def share(self) -> float:
        """Part of the layer's weights that is in use."""
        parts = (1.0 if live is None else float(live.float().mean()) for live in (self.inputs, self.outputs))
        return next(parts) * next(parts)

    def rows(self, layout: Layout) -> torch.Tensor:
        """Index of the matrix rows in use."""
        return self._expand(self.inputs, layout.inputs, layout.rows // layout.inputs)

    def columns(self, layout: Layout) -> torch.Tensor:
        """Index of the matrix columns in use."""
        return self._expand(self.outputs, layout.columns // layout.share, layout.share)

    def _expand(self, live: torch.Tensor | None, channels: int, each: int) -> torch.Tensor:
        device = next((mask.device for mask in (self.inputs, self.outputs) if mask is not None), None)
        mask = torch.ones(channels, dtype=torch.bool, device=device) if live is None else live
        return torch.nonzero(mask.repeat_interleave(each))[:, 0]


def channel_variances(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Covariance (channels, K, K) of the K inputs that each channel has in one matrix row block.

    K is the size of a convolution's kernel, 1 for linear and transposed layers. Estimated at 2048 positions.
    """
    total = torch.Size(spatial_grid(module, inputs)).numel()
    positions = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:POSITIONS]
    rows = input_rows(module, inputs.float(), positions)[0]
    rows = rows.reshape(len(rows), Layout.of(module).inputs, -1)
    rows = rows - rows.mean(0)
    return torch.einsum("nck,ncl->ckl", rows, rows) / len(rows)


def live_channels(weight: torch.Tensor, layout: Layout, variances: torch.Tensor, bits: int, *, folded: bool) -> Live:
    """Find the channels in use, for a model that is to have so many bits.

    A channel's share is the larger of its parts in the squared weights and in the variance of the output; the least
    channels are left out as long as their shares add up to less than half a per cent of the rounding noise 4^-bits.
    Output channels are only left out where a batch norm was `folded` into the layer: any other norm that follows would
    blow a faint channel up again. For the same reason an input's share is then the mean of its share in each output.
    """
    if layout.groups > 1:
        return Live()
    matrix = layout.to_matrices(weight)[0]
    if layout.transposed:
        blocks = matrix.reshape(layout.inputs, layout.outputs, layout.share).transpose(1, 2)
    else:
        blocks = matrix.reshape(layout.inputs, -1, layout.outputs)
    size = blocks.square().sum(1)
    if layout.transposed:
        power = size * variances[:, 0, 0, None]
    else:
        power = torch.einsum("cko,ckl,clo->co", blocks, variances, blocks)
    budget = SHARE_OF_NOISE * 4.0**-bits
    if folded:
        inputs, outputs = (_shares(size, dim).maximum(_shares(power, dim)) for dim in (1, 0))
        return Live(_above(inputs, budget), _above(outputs, budget))
    tiny = torch.finfo(size.dtype).tiny
    inputs = torch.maximum(*((part / part.sum(0).clamp_min(tiny)).mean(1) for part in (size, power)))
    return Live(_above(inputs, budget), None)


def _shares(energy: torch.Tensor, dim: int) -> torch.Tensor:
    return energy.sum(dim) / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)


def _above(shares: torch.Tensor, budget: float) -> torch.Tensor | None:
    """All but the least channels that add up to no more than `budget`; None where none or all would go."""
    order = shares.argsort(stable=True)
    dropped = order[shares[order].cumsum(0) <= budget]
    if not 0 < len(dropped) < len(shares):
        return None
    live = torch.ones(len(shares), dtype=torch.bool)
    live[dropped] = False
    return live
