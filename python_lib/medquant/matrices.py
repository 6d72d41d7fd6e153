"""Layers as matrices: weights (m inputs, n outputs) and the input rows (positions, m) that meet them.

A convolution is the matrix product of its unfolded patches; each of its groups is a matrix of its own. In a
transposed convolution every input position meets all kernel offsets, so m is the number of input channels, and the
offsets stand as adjacent columns that share one scale (`Layout.share`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHUNK_ELEMENTS = 8_000_000
"""Rows are gathered in pieces of so many numbers, whatever the layer."""
QUANTIZABLE = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


def is_quantizable(module: nn.Module) -> bool:
    """True for a layer whose forward pass is the plain one of its kind."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in QUANTIZABLE)


@dataclass(frozen=True)
class Layout:
    """How the weight of one layer becomes `groups` matrices of (m, n)."""

    weight_shape: tuple[int, ...]
    groups: int
    transposed: bool
    """Transposed convolution: the weight is (in, out / groups, *kernel)."""

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of a linear, convolution or transposed convolution layer."""
        return cls(tuple(module.weight.shape), getattr(module, "groups", 1), isinstance(module, TRANSPOSED))

    @property
    def share(self) -> int:
        """Adjacent columns that have one scale in common."""
        return int(torch.Size(self.weight_shape[2:]).numel()) if self.transposed else 1

    @property
    def outputs(self) -> int:
        """Output channels of the layer."""
        return self.weight_shape[1] * self.groups if self.transposed else self.weight_shape[0]

    @property
    def inputs(self) -> int:
        """Input channels of one group."""
        return self.weight_shape[0] // self.groups if self.transposed else self.weight_shape[1]

    @property
    def rows(self) -> int:
        """Rows m of one group's matrix."""
        return self.inputs if self.transposed else torch.Size(self.weight_shape[1:]).numel()

    @property
    def columns(self) -> int:
        """Columns n of one group's matrix."""
        return self.outputs // self.groups * self.share

    def at_most(self, positions: int) -> int:
        """So many positions, or as many as may be gathered in one piece."""
        return min(positions, max(1, CHUNK_ELEMENTS // (self.rows * self.groups)))

    def to_matrices(self, weight: torch.Tensor) -> torch.Tensor:
        """Weight -> (groups, m, n)."""
        if self.transposed:
            return weight.reshape(self.groups, self.weight_shape[0] // self.groups, -1)
        return weight.reshape(self.groups, self.weight_shape[0] // self.groups, -1).transpose(1, 2)

    def to_weight(self, matrices: torch.Tensor) -> torch.Tensor:
        """(groups, m, n) -> weight, the inverse of `to_matrices`."""
        ordered = matrices if self.transposed else matrices.transpose(1, 2)
        return ordered.reshape(self.weight_shape)


def spatial_grid(module: nn.Module, inputs: torch.Tensor) -> tuple[int, ...]:
    """The grid over which the rows of a layer lie: (batch, *spatial), or the leading axes of a linear layer."""
    if isinstance(module, nn.Linear):
        return tuple(inputs.shape[:-1])
    if isinstance(module, TRANSPOSED):
        return (inputs.shape[0], *inputs.shape[2:])
    low_high = padding_sides(module.padding, module.kernel_size, module.dilation)
    sizes = []
    for axis, size in enumerate(inputs.shape[2:]):
        span = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        sizes.append((size + sum(low_high[axis]) - span) // module.stride[axis] + 1)
    return (inputs.shape[0], *sizes)


def by_channel(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A layer's input as (channels, positions), float32: channels are last for linear layers, second for others."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T.float()
    spatial = inputs.ndim - int(type(module).__name__[-2])
    channels = inputs.movedim(spatial - 1, 0)
    return channels.reshape(len(channels), -1).float()


def input_rows(module: nn.Module, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows (groups, N, m) of the layer's input at flat `positions` (N,) of its `spatial_grid`."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])[positions][None]
    if isinstance(module, TRANSPOSED):
        rows = inputs.movedim(1, -1).reshape(-1, inputs.shape[1])[positions]
        return rows.reshape(len(rows), module.groups, -1).transpose(0, 1)
    padded = _pad(module, inputs)
    grid = spatial_grid(module, inputs)
    index = torch.unravel_index(positions, grid)
    corner = [p * s for p, s in zip(index[1:], module.stride)]
    offsets = torch.cartesian_prod(*[torch.arange(k) * d for k, d in zip(module.kernel_size, module.dilation)])
    offsets = offsets.reshape(-1, len(module.kernel_size))
    strides = padded.stride()
    # One flat gather: base address of each patch plus the address of each element within a patch.
    base = index[0] * strides[0] + sum(c * s for c, s in zip(corner, strides[2:]))
    within = (offsets * torch.tensor(strides[2:])).sum(1)
    channels = torch.arange(inputs.shape[1]) * strides[1]
    element = (channels[:, None] + within[None, :]).reshape(module.groups, 1, -1)
    flat = padded.reshape(-1)
    return flat[base[None, :, None] + element]


def padding_sides(
    padding: tuple[int, ...] | str, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """What a convolution adds before and after each spatial axis."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in padding]


def _pad(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    pairs = padding_sides(module.padding, module.kernel_size, module.dilation)
    amounts = [side for pair in reversed(pairs) for side in pair]
    if not any(amounts):
        return inputs.contiguous()
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(inputs, amounts, mode=mode).contiguous()
