"""A quantized layer's weight as plain constants that any program can decode: codes, scales, where channels go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medquant.layers import QuantizedLayer
from medquant.network_edit import HALF_PRECISION_FROM


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """weight = codes * scale + offset, with zeros put where a channel has no codes, in `shape`.

    `scale` and `offset` (float32) broadcast against `codes` (uint8), after they were gathered along `axis` by `group`
    where there are groups of rows.
    """

    bits: int
    """Of a code, 2 to 8."""
    codes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    group: np.ndarray | None
    axis: int
    places: tuple[tuple[int, np.ndarray], ...]
    """(axis, index): which slice of the decoded weight stands where; the index one past the last means zeros."""
    shape: tuple[int, ...]

    @property
    def single_axis(self) -> int | None:
        """The only axis along which the scale varies, as formats with one scale for each channel want it."""
        if self.group is not None:
            return None
        varying = [axis for axis, size in enumerate(self.scale.shape) if size > 1]
        return (varying or [0])[0] if len(varying) < 2 else None


def stored_weight(layer: QuantizedLayer) -> StoredWeight | None:
    """The constants of a layer's weight; None where every single weight has a group of its own (`scope="layer"`)."""
    if layer.row_group is not None and layer.row_group.ndim == 3:
        return None
    layout = layer.geometry.layout
    groups, rows, columns = layer.matrix_shape
    scale = layer.scale.float()
    offset = scale * layer.zero if layer.offset is None else layer.offset.float()
    codes = layer.codes()
    if layout.transposed:  # the weight lies as the matrices do: (groups, in, out, kernel)
        codes = codes.reshape(groups, rows, columns // layout.share, layout.share)
        tables = [table[..., None] for table in (scale, offset)]
        axis = 1
    else:  # the weight lies as the transposed matrices do: (out, in * kernel)
        codes = codes.transpose(1, 2).reshape(groups * columns, rows)
        tables = [table.expand(-1, -1, columns).transpose(1, 2).flatten(0, 1) for table in (scale, offset)]
        axis = 1
    scale, offset = (table.contiguous().cpu().numpy() for table in tables)
    group = None
    if layer.row_group is not None:
        group = layer.row_group.long()
        if groups > 1 and not bool((group == group[:1]).all()):
            return None
        group = group[0].cpu().numpy()
    return StoredWeight(
        layer.bits,
        codes.contiguous().cpu().numpy(),
        scale,
        offset,
        group,
        axis,
        _places(layer),
        tuple(layer.geometry.weight_shape),
    )


def _places(layer: QuantizedLayer) -> tuple[tuple[int, np.ndarray], ...]:
    layout = layer.geometry.layout
    each = 1 if layout.transposed else layout.rows // layout.inputs
    inputs, outputs = (1, 2) if layout.transposed else (1, 0)
    found = []
    for axis, mask, repeats in ((inputs, layer.live_inputs, each), (outputs, layer.live_outputs, 1)):
        if mask is not None:
            live = mask.cpu().repeat_interleave(repeats)
            index = torch.where(live, live.cumsum(0) - 1, live.sum())
            found.append((axis, index.numpy()))
    return tuple(found)


def packed_codes(codes: np.ndarray, bits: int) -> bytes:
    """Codes of 2, 4 or 8 bits one after the other, the first in the lowest bits, as OpenVINO and ONNX store them."""
    from medquant.packing import pack

    return pack(torch.from_numpy(codes), bits).numpy().tobytes()


def exact_half(values: np.ndarray) -> np.ndarray | None:
    """Large float32 constants in half precision, as the quantized model's file has them; None where it would lose."""
    if values.size < HALF_PRECISION_FROM:
        return None
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None
