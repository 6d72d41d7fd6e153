"""A layer whose weight is stored as packed integer codes and decoded on the way through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medquant.activations import ActivationQuantizer
from medquant.channels import Live
from medquant.geometry import LayerGeometry
from medquant.grid import Grid
from medquant.packing import pack, unpack


class QuantizedLayer(nn.Module):
    """Linear, convolution or transposed convolution with 2- to 8-bit weights.

    Buffers: `packed` codes (uint8, flat, in the order (groups, m, n)), `scale` and, unless it follows from the scale,
    `offset` of shape (groups, g, n / share), or (groups, g, 1) for all columns, `row_group` (groups, m) where there are
    several groups of rows (uint8 or int16; (groups, m, n) where single weights are grouped), `bias` (n) or None,
    `live_inputs` and `live_outputs` (bool) where some channels have no codes; m and n then count the others. The weight
    is decoded for each forward pass, so the memory held is that of the codes.

    With an `input_quantizer` the input is rounded to integers first; with `input_divisor` (channels) each channel is
    divided by a factor before that, which the decoded weight already contains.
    """

    def __init__(
        self,
        geometry: LayerGeometry,
        bits: int,
        packed: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor | None,
        zero: float | None,
        row_group: torch.Tensor | None,
        bias: torch.Tensor | None,
        live_inputs: torch.Tensor | None = None,
        live_outputs: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.bits = bits
        self.zero = zero
        """Zero point in units of the scale where no offset is stored."""
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        self.register_buffer("row_group", row_group)
        self.register_buffer("bias", bias)
        self.register_buffer("live_inputs", live_inputs)
        self.register_buffer("live_outputs", live_outputs)
        self.register_buffer("input_divisor", None)
        self.input_quantizer: ActivationQuantizer | None = None
        self._decoded: torch.Tensor | None = None

    @classmethod
    def from_solutions(
        cls,
        geometry: LayerGeometry,
        bits: int,
        codes: torch.Tensor,
        grids: list[Grid],
        zero: float | None,
        bias: torch.Tensor | None,
        live: Live | None = None,
    ) -> QuantizedLayer:
        """Store what the solver found: codes (groups, m, n) and one grid for each group of the convolution.

        With `live`, codes and grids are those of the rows and columns in use.
        """
        live = live or Live()
        share = geometry.layout.share
        by_weight = grids[0].row_group.ndim == 2
        step = 1 if by_weight else share
        scale = torch.stack([grid.scale[..., ::step] for grid in grids])
        offset = torch.stack([grid.offset[..., ::step] for grid in grids]) if zero is None else None
        if not by_weight and zero is None and _uniform(scale) and _uniform(offset):
            scale, offset = scale[..., :1], offset[..., :1]
        elif not by_weight and zero is not None and _uniform(scale):
            scale = scale[..., :1]
        row_group = None
        if by_weight or scale.shape[1] > 1:
            row_group = torch.stack([grid.row_group for grid in grids])
            row_group = row_group.to(_index_dtype(scale.shape[1]))
        dtype = storage_dtype(bits, scale, offset)
        return cls(
            geometry,
            bits,
            pack(codes, bits),
            scale.to(dtype),
            None if offset is None else offset.to(dtype),
            zero,
            row_group,
            bias,
            live.inputs,
            live.outputs,
        )

    @property
    def live(self) -> Live:
        """The channels that have codes."""
        return Live(self.live_inputs, self.live_outputs)

    def codes(self) -> torch.Tensor:
        """Unpacked codes (groups, m, n), uint8."""
        shape = self.matrix_shape
        return unpack(self.packed, self.bits, shape.numel()).reshape(shape)

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight in float32, in the layer's own shape."""
        if self._decoded is not None:
            return self._decoded
        layout = self.geometry.layout
        scale = self.scale.float()
        offset = scale * self.zero if self.offset is None else self.offset.float()
        if self.row_group is not None and self.row_group.ndim == 3:
            index = self.row_group.long()
            scale, offset = (t.gather(1, index.flatten(1)).view_as(index) for t in (scale, offset))
        else:
            each = layout.share if scale.shape[-1] > 1 else len(self.live.columns(layout))
            scale, offset = (t.repeat_interleave(each, -1) for t in (scale, offset))
            if self.row_group is not None:
                index = self.row_group.long()[..., None].expand(-1, -1, scale.shape[-1])
                scale, offset = scale.gather(1, index), offset.gather(1, index)
        matrices = torch.addcmul(offset, scale, self.codes().float())
        if self.live_inputs is not None or self.live_outputs is not None:
            whole = matrices.new_zeros(layout.groups, layout.rows, layout.columns)
            whole[0, self.live.rows(layout)[:, None], self.live.columns(layout)] = matrices[0]
            matrices = whole
        return layout.to_weight(matrices)

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """Same as the layer it replaces, with the decoded weight; arguments are named as in torch."""
        return self.compute(input, output_size)

    def compute(
        self,
        input: torch.Tensor,
        output_size: Any = None,
        *,
        multiply: Callable[..., torch.Tensor] = functional.linear,
    ) -> torch.Tensor:
        """The same, with `multiply` for the product of a linear layer."""
        weight = self.weight.to(input.dtype)
        return self.geometry.apply(self.rounded(input), weight, self.bias, output_size, multiply=multiply)

    def rounded(self, input: torch.Tensor) -> torch.Tensor:
        """What the integers of the layer's input stand for; the input itself where it is not quantized."""
        if self.input_divisor is not None:
            input = divided(input, self.input_divisor, self.geometry)
        return input if self.input_quantizer is None else self.input_quantizer(input)

    def stored_bits(self) -> int:
        """Bits of everything that stands for the weight: codes, scales, offsets, groups, channel masks; no bias."""
        parts = (self.packed, self.scale, self.offset, self.row_group, self.live_inputs, self.live_outputs)
        parts += (self.input_divisor,)
        return sum(8 * t.numel() * t.element_size() for t in parts if t is not None)

    def extra_repr(self) -> str:
        return f"{self.geometry.kind}, weight={self.geometry.weight_shape}, bits={self.bits}"

    @property
    def matrix_shape(self) -> torch.Size:
        """(groups, m, n) of the codes."""
        layout = self.geometry.layout
        if layout.groups > 1:
            return torch.Size((layout.groups, layout.rows, layout.columns))
        return torch.Size((1, len(self.live.rows(layout)), len(self.live.columns(layout))))


def divided(input: torch.Tensor, divisor: torch.Tensor, geometry: LayerGeometry) -> torch.Tensor:
    """The layer's input with each channel divided by its factor (channels,)."""
    return input / (divisor if geometry.kind == "Linear" else divisor.reshape(-1, *[1] * int(geometry.kind[-2])))


def multiplied(weight: torch.Tensor, divisor: torch.Tensor, geometry: LayerGeometry) -> torch.Tensor:
    """The weight of an ungrouped layer for an input that was `divided`."""
    axis = 0 if geometry.layout.transposed else 1
    return weight * divisor.reshape([-1 if a == axis else 1 for a in range(weight.ndim)])


@contextmanager
def decoded_once(network: nn.Module, limit_mb: float = 64.0) -> Iterator[None]:
    """Inside, a small network keeps its decoded weights; one whose weights exceed `limit_mb` decodes at every pass.

    Decoding costs a few per cent of a large layer's arithmetic, but more than that of a small one.
    """
    layers = [module for module in network.modules() if isinstance(module, QuantizedLayer)]
    size = sum(torch.Size(layer.geometry.weight_shape).numel() * 4 for layer in layers) / 1e6
    kept = layers if size <= limit_mb else []
    for layer in kept:
        layer._decoded = layer.weight
    try:
        yield
    finally:
        for layer in kept:
            layer._decoded = None


def _uniform(values: torch.Tensor) -> bool:
    """Whether all columns have the same value, so that one stands for them (per-tensor granularity)."""
    return values.shape[-1] > 1 and bool((values == values[..., :1]).all())


def _index_dtype(count: int) -> torch.dtype:
    """The smallest type that can number so many groups."""
    return torch.uint8 if count <= 256 else torch.int16 if count <= 2**15 else torch.int32


def storage_dtype(bits: int, *tensors: torch.Tensor | None) -> torch.dtype:
    """Of scales and offsets: float16 up to 6 bits where every number is a normal one there, else float32.

    The relative error of 2^-11 moves the outermost level by a small part of a step of 64 levels, but not of 256.
    """
    limits = torch.finfo(torch.float16)
    if bits > 6:
        return torch.float32
    for tensor in tensors:
        if tensor is None:
            continue
        size = tensor.abs()
        if bool(((size > limits.max) | ((size < limits.tiny) & (size > 0))).any()):
            return torch.float32
    return torch.float16
