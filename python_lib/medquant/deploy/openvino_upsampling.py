"""Upsampling and the convolution that reads it, in one step.

A U-Net's decoder doubles a grid by a transposed convolution (2^3, stride 2), joins the result with what was made at
that resolution before, and convolves (3^3). Nothing bends between the two: a transposed convolution of 4^3 with stride
2 does for the upsampled part what both do together, with two thirds of the products, and the upsampled tensor is
neither rounded nor joined nor stored. What comes of the two parts is added.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from medquant.deploy.openvino_joins import CHANNELS

WORTH = 0.85
"""The part of the products that may be left where merging is worth it."""
LEAST = 2**13
"""Voxels of the fine grid; on fewer the weights, which grow, take longer than the values."""
MOST_CONSTANTS = 16
"""More constant channels than this would cost more than merging gains."""
FAR = 1e30
"""Larger than any value. A sum of integers that is clamped is written in short floating point, else in FP32."""


class _Grid(NamedTuple):
    """The grid of values that a FakeQuantize has rounded."""

    scale: float
    zero: int
    kind: type

    @property
    def largest(self) -> float:
        """The largest value on it."""
        return (np.iinfo(self.kind).max - self.zero) * self.scale


class _Upsampled(NamedTuple):
    """The part of a join that a transposed convolution makes."""

    source: Any
    """The rounded values on the coarse grid."""
    grid: _Grid
    """Where they lie."""
    weight: np.ndarray
    """(coarse channels, channels, 2, 2, 2), what is divided by before joining divided already."""
    bias: np.ndarray
    """(channels,)"""


def merge_upsampling(model: Any, largest_code: int) -> None:
    """Exchange every such pair of layers in an `openvino.Model` whose inputs are rounded by FakeQuantize.

    The merged weight is rounded to int8 codes up to `largest_code` with a scale for each output. The transposed
    convolution's bias must not reach over the edge of the grid, where the convolution pads with zeros: it comes in as
    the weight of one more channel, or some, which are constant.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution" or not _is(node, kernel=3, stride=1, pad=1):
            continue
        join = node.input_value(0).get_node()
        if join.get_type_name() != "Concat" or join.get_attributes()["axis"] != CHANNELS or _readers(join) != 1:
            continue
        parts = [port.get_source_output() for port in join.inputs()]
        found = [_upsampled(part) for part in parts]
        if len(parts) != 2 or sum(one is not None for one in found) != 1:
            continue
        place = 0 if found[0] is not None else 1
        upsampled, kept = found[place], parts[1 - place]
        held = _held(node.input_value(1))
        if held is None or kept.get_partial_shape().is_dynamic or kept.get_node().get_type_name() != "FakeQuantize":
            continue
        widths = [part.get_partial_shape()[CHANNELS].get_length() for part in parts]
        own, scale_of_own = np.split(held[0], [widths[0]], axis=1), held[1]
        voxels = np.prod(kept.get_partial_shape().to_shape()[2:])
        if voxels < LEAST or _left(upsampled.weight.shape[0], widths[place], len(own[0])) > WORTH:
            continue
        taps = own[place] * scale_of_own
        merged, of_bias = merged_weight(taps, upsampled.weight), _of_bias(taps, upsampled) / upsampled.grid.largest
        codes, scale, constants = _merged_codes(merged, of_bias, largest_code)
        if constants > MOST_CONSTANTS:
            continue
        values = _with_constants(upsampled.source, upsampled.grid, constants)
        rising = ops.convolution_backprop_data(
            values, _times(codes, scale), strides=[2] * 3, pads_begin=[1] * 3, pads_end=[1] * 3, dilations=[1] * 3
        )
        level = ops.convolution(
            kept,
            _times(own[1 - place], scale_of_own),
            strides=[1] * 3,
            pads_begin=[1] * 3,
            pads_end=[1] * 3,
            dilations=[1] * 3,
        )
        node.output(0).replace(ops.add(ops.clamp(rising, -FAR, FAR), level).output(0))
    model.validate_nodes_and_infer_types()


def merged_weight(convolution: np.ndarray, transposed: np.ndarray) -> np.ndarray:
    """The weight (coarse channels, outputs, 4, 4, 4) of the one transposed convolution (stride 2, one voxel cut off at
    each end) that does what `transposed` (coarse channels, channels, 2, 2, 2; stride 2) and then `convolution`
    (outputs, channels, 3, 3, 3; one voxel of zeros around) do.

    A fine voxel f reads the coarse voxel i by tap k of the convolution and offset d of the other where
    2 i + d = f + k - 1, which is tap f - 2 i + 1 = d + 2 - k of the merged one.
    """
    coarse, outputs = transposed.shape[0], convolution.shape[0]
    merged = torch.zeros(coarse, outputs, 4, 4, 4)
    taps, offsets = torch.from_numpy(convolution).float(), torch.from_numpy(transposed).float()
    for d in np.ndindex(2, 2, 2):
        for k in np.ndindex(3, 3, 3):
            at = tuple(a + 2 - b for a, b in zip(d, k))
            merged[(..., *at)] += offsets[(..., *d)] @ taps[(..., *k)].T
    return merged.numpy()


def _of_bias(convolution: np.ndarray, upsampled: _Upsampled) -> np.ndarray:
    """The weight (1, outputs, 4, 4, 4) of a coarse channel of ones that does what the bias did."""
    everywhere = np.broadcast_to(upsampled.bias[None, :, None, None, None], (1, len(upsampled.bias), 2, 2, 2))
    return merged_weight(convolution, np.ascontiguousarray(everywhere))


def _merged_codes(merged: np.ndarray, of_bias: np.ndarray, largest_code: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Codes (coarse channels and constant ones, outputs, 4, 4, 4), scales, and how many constant channels there are: as
    many as a large bias needs, so that it makes the steps of the other weights no coarser."""
    scale = np.abs(merged).max(axis=(0, 2, 3, 4), keepdims=True) / largest_code
    scale[scale == 0] = 1
    codes, total = np.rint(merged / scale), np.rint(of_bias / scale)
    count = max(1, math.ceil(np.abs(total).max() / largest_code))
    shares = [np.floor_divide(total + n, count) for n in range(count)]  # which add up to the total
    return np.concatenate([codes, *shares]).astype(np.int8), scale.astype(np.float32), count


def _left(coarse: int, channels: int, outputs: int) -> float:
    """The part of the products that is left, of those of the upsampled part."""
    return 8 * (coarse + 1) * outputs / (27 * channels * outputs + coarse * channels)


def _upsampled(port: Any) -> _Upsampled | None:
    """What a join reads, where a transposed convolution makes it: FakeQuantize of a quotient of a sum of it."""
    node = port.get_node()
    if node.get_type_name() != "FakeQuantize" or _readers(node) != 1:
        return None
    node, divisor = _operand(node.input_value(0).get_node(), "Divide")
    node, bias = _operand(node, "Add")
    if node.get_type_name() != "ConvolutionBackpropData" or not _is(node, kernel=2, stride=2, pad=0):
        return None
    source, held = node.input_value(0), _held(node.input_value(1))
    grid = _grid_of(source)
    if held is None or grid is None or source.get_partial_shape().is_dynamic:
        return None
    weight = held[0] * held[1]
    by = np.ones(1, np.float32) if divisor is None else divisor
    plus = np.zeros(1, np.float32) if bias is None else bias
    if any(values.size not in (1, values.shape[CHANNELS] if values.ndim == 5 else 1) for values in (by, plus)):
        return None
    by, plus = (np.broadcast_to(values.reshape(-1), weight.shape[1]) for values in (by, plus))
    return _Upsampled(source, grid, weight / by[None, :, None, None, None], plus / by)


def _grid_of(source: Any) -> _Grid | None:
    """The grid of 256 levels of a FakeQuantize; None for any other, and where no level is above zero."""
    node = source.get_node()
    if node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != 256:
        return None
    ends = [port.get_node() for port in (node.input_value(3), node.input_value(4))]
    if any(end.get_type_name() != "Constant" or end.data.size != 1 for end in ends):
        return None
    low, high = (float(end.data.item()) for end in ends)
    if not low <= 0 < high:
        return None
    scale = (high - low) / 255
    zero = round(-low / scale)
    return _Grid(scale, 0, np.int8) if zero == 128 else _Grid(scale, zero, np.uint8)


def _with_constants(source: Any, grid: _Grid, count: int) -> Any:
    """Rounded values with so many more channels, all of them the largest value of their grid.

    They are written as integers on the same grid, so that all are joined as integers.
    """
    from openvino import opset13 as ops

    shape = source.get_partial_shape().to_shape()
    shape[CHANNELS] = count
    values = ops.convert(ops.constant(np.full(list(shape), np.iinfo(grid.kind).max, grid.kind)), np.float32)
    if grid.zero:
        values = ops.subtract(values, ops.constant(np.float32(grid.zero)))
    values = ops.multiply(values, ops.constant(np.float32(grid.scale)))
    return ops.concat([source, values.output(0)], CHANNELS)


def _held(port: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and scales of a weight that is integers times a scale for each output; None for any other."""
    node = port.get_node()
    if node.get_type_name() != "Multiply":
        return None
    codes, scale = (node.input_value(index).get_node() for index in (0, 1))
    if codes.get_type_name() != "Convert" or scale.get_type_name() != "Constant":
        return None
    codes = codes.input_value(0).get_node()
    return (codes.data.copy(), scale.data.copy()) if codes.get_type_name() == "Constant" else None


def _times(codes: np.ndarray, scale: np.ndarray) -> Any:
    from openvino import opset13 as ops

    return ops.multiply(ops.convert(ops.constant(codes), np.float32), ops.constant(scale))


def _is(node: Any, *, kernel: int, stride: int, pad: int) -> bool:
    """Whether a convolution over three axes, without groups and a size of its own, is of that kind."""
    shape, attributes = node.input_value(1).get_partial_shape(), node.get_attributes()
    if (
        shape.is_dynamic
        or len(node.inputs()) > 2
        or list(shape.to_shape())[2:] != [kernel] * 3
        or attributes["auto_pad"] != "explicit"
    ):
        return False
    wanted = {"strides": stride, "pads_begin": pad, "pads_end": pad, "dilations": 1, "output_padding": 0}
    return all(list(attributes.get(name, [value] * 3)) == [value] * 3 for name, value in wanted.items())


def _operand(node: Any, kind: str) -> tuple[Any, np.ndarray | None]:
    """What comes before a node of that kind, and its constant; else the node itself, and None."""
    if node.get_type_name() != kind or node.input_value(1).get_node().get_type_name() != "Constant":
        return node, None
    return node.input_value(0).get_node(), node.input_value(1).get_node().data.copy()


def _readers(node: Any) -> int:
    return len(node.output(0).get_target_inputs())
