"""The inputs of layers as integers.

Source of the granularities: MedQuanBench, sections 2 and 3.1. A quantizer here computes what integers would, in
floating point ("fake quantization"); `has_integer_kernel` says whether ordinary integer kernels can do the same.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.dither import ordered_dither
from medquant.geometry import LayerGeometry
from medquant.granularity import Adaptive, PerChannel, PerTensor, PerToken, PerVoxel
from medquant.observers import MOST_SAMPLES, find_range, grid_of

Spread = Literal["tensor", "channel", "position"]
"""What one scale covers: the whole input, one of its channels, or all channels at one position."""


def spread_of(settings: IntActivations, geometry: LayerGeometry) -> Spread:
    """What one scale covers in the input of a layer of this kind."""
    linear = geometry.kind == "Linear"
    pointwise = not linear and all(size == 1 for size in geometry.weight_shape[2:])
    depthwise = not linear and geometry.groups > 1
    match settings.granularity:
        case PerTensor():
            return "tensor"
        case PerChannel():
            return "channel"
        case PerToken():
            return "position" if linear else "channel"
        case PerVoxel():
            return "position"
        case Adaptive():
            return "position" if linear or (pointwise and not depthwise) else "channel"
    raise AssertionError(settings.granularity)


SUMMING = ("Conv1d", "Conv2d", "Conv3d")
"""Layers that sum over neighbouring positions; a transposed convolution takes each position by itself."""


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to integers and back: x -> (clamp(round(x / scale) + zero, 0, levels - 1) - zero) * scale.

    Static quantizers hold `scale` and `zero` (int32) as buffers, without axes, or (channels,) where each channel has
    its own. Dynamic ones take the range of what they are given, each member of the batch (the first axis) by itself, so
    that what one input becomes does not depend on the others. Inside windowed attention (SAM's, Swin's) windows are
    members of the batch: "per tensor" and "per channel" are a grid for each window there, finer than MedQuanBench's for
    all windows of a picture. Zero is always a level. A symmetric grid has an odd
    number of levels, 2^bits - 1 (MedQuanBench, equation 1). With `dither` the values (batch, channels, *spatial) are
    moved by parts of a step before they are rounded (`medquant.dither`).
    """

    def __init__(
        self,
        bits: int,
        spread: Spread,
        *,
        symmetric: bool,
        channel_axis: int,
        dither: bool = False,
        scale: torch.Tensor | None = None,
        zero: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.spread: Spread = spread
        self.symmetric = symmetric
        self.channel_axis = channel_axis
        """1 for convolutions, -1 for linear layers."""
        self.dither = dither
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 2**self.bits - self.symmetric

    @property
    def mode(self) -> Literal["static", "dynamic"]:
        """Whether the range is fixed or that of each input."""
        return "dynamic" if self.scale is None else "static"

    @property
    def has_integer_kernel(self) -> bool:
        """Whether the scale can be taken out of the sum over the layer's inputs, as integer kernels need it."""
        return self.spread == "tensor" or (self.spread == "position" and self.channel_axis == -1)

    def settings(self) -> dict[str, Any]:
        """Everything but the buffers, as the arguments of a new quantizer."""
        return {name: getattr(self, name) for name in ("bits", "spread", "symmetric", "channel_axis", "dither")}

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values at the levels of the grid; same shape and type."""
        if not self.dither:
            return self.undithered(values)
        pattern = ordered_dither(tuple(values.shape[2:]), values.device)
        if self.scale is None:
            grid = self._grid_for(values)
            return self._rounded(values + pattern * grid[0], *grid)
        axis = self.channel_axis % values.ndim
        along = self.scale if self.spread == "tensor" else self.scale.reshape(-1, *[1] * (values.ndim - 1 - axis))
        return self.undithered(values + pattern * along)

    def undithered(self, values: torch.Tensor) -> torch.Tensor:
        """The same without dither, for values of any shape where there is one scale for all."""
        if self.scale is None:
            return self._rounded(values, *self._grid_for(values))
        axis = self.channel_axis % values.ndim
        if self.spread == "tensor":
            return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero, 0, self.levels - 1)
        return torch.fake_quantize_per_channel_affine(values, self.scale, self.zero, axis, 0, self.levels - 1)

    def _rounded(self, values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return ((values / scale).round_().add_(zero).clamp_(0, self.levels - 1) - zero).mul_(scale)

    def _grid_for(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point of each member of the batch (of windowed attention: of each window)."""
        axis = self.channel_axis % values.ndim
        kept = {"tensor": (0,), "channel": (0, axis), "position": tuple(a for a in range(values.ndim) if a != axis)}
        over = [a for a in range(values.ndim) if a not in kept[self.spread]]
        low, high = values.amin(over, keepdim=True).clamp_max(0), values.amax(over, keepdim=True).clamp_min(0)
        if self.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        return grid_of(low, high, self.levels)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, {self.mode}, one scale for each {self.spread}"


def fit_quantizer(
    settings: IntActivations, geometry: LayerGeometry, values: torch.Tensor, *, most: int = MOST_SAMPLES
) -> ActivationQuantizer:
    """The quantizer of a layer's input, from sampled values (positions, channels), `most` of them looked at closely."""
    spread = spread_of(settings, geometry)
    axis = -1 if geometry.kind == "Linear" else 1
    sums = geometry.kind in SUMMING and torch.Size(geometry.weight_shape[2:]).numel() > 1
    made = ActivationQuantizer(
        settings.bits, spread, symmetric=settings.symmetric, channel_axis=axis, dither=settings.dithered and sums
    )
    if settings.mode == "dynamic" or spread == "position":
        return made
    samples = values.reshape(1, -1) if spread == "tensor" else values.T
    low, high = find_range(
        samples,
        made.levels,
        settings.observer,
        symmetric=settings.symmetric,
        period=values.shape[1] if spread == "tensor" else 1,
        most=most,
    )
    scale, zero = grid_of(low, high, made.levels)
    scale, zero = (scale[0], zero[0]) if spread == "tensor" else (scale, zero)
    made.scale, made.zero = scale.clone(), zero.to(torch.int32)
    return made
