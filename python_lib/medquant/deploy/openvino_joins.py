"""Rounding before tensors are joined, so that they are joined as integers.

A U-Net joins what it made at a resolution earlier with what comes up from below, and the layer that follows rounds all
of it. Rounded before, the joined parts are an eighth to a half of the bytes, the layers that make them write integers
at once, and a part that an earlier layer has rounded on the same grid is not rounded again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CHANNELS = 1
"""The axis along which channels lie."""


def round_before_joins(model: Any) -> None:
    """Move every FakeQuantize (and the division before it) that reads a Concat of channels to what is joined.

    Where anything else reads the Concat, it is needed as it is, and nothing is moved.
    """
    from openvino import opset13 as ops

    rounded: dict[tuple[Any, ...], Any] = {}
    nodes = model.get_ordered_ops()
    for node in nodes:
        if node.get_type_name() == "FakeQuantize" and (found := _grid(node)) is not None:
            source, divisor, ends = found
            if _joined(source) is None:
                rounded[_key(source, divisor, ends)] = node.output(0)
    for node in nodes:
        if node.get_type_name() != "FakeQuantize" or (found := _grid(node)) is None:
            continue
        source, divisor, ends = found
        join = _joined(source)
        if join is None or not _only_rounded(source):
            continue
        start, parts = 0, []
        for port in join.inputs():
            part = port.get_source_output()
            stop = start + part.get_partial_shape()[CHANNELS].get_length()
            own = None if divisor is None else divisor[:, start:stop]
            own = None if own is None or (own == 1).all() else own
            key = _key(part, own, ends)
            if key not in rounded:
                values = part if own is None else ops.divide(part, ops.constant(own)).output(0)
                limits = [ops.constant(end) for end in ends]
                rounded[key] = ops.fake_quantize(values, *limits, node.get_attributes()["levels"]).output(0)
            parts.append(rounded[key])
            start = stop
        node.output(0).replace(ops.concat(parts, CHANNELS).output(0))
    model.validate_nodes_and_infer_types()


def _grid(node: Any) -> tuple[Any, np.ndarray | None, tuple[np.ndarray, ...]] | None:
    """What a FakeQuantize reads, the divisor of each channel if there is one, and its ends; None for other forms."""
    ports = [port.get_source_output() for port in node.inputs()]
    source, limits = ports[0], [port.get_node() for port in ports[1:]]
    if any(limit.get_type_name() != "Constant" or limit.data.size != 1 for limit in limits):
        return None
    ends = tuple(limit.data.copy() for limit in limits)
    division = source.get_node()
    if division.get_type_name() != "Divide":
        return source, None, ends
    source, by = (port.get_source_output() for port in division.inputs())
    constant = by.get_node()
    rank = source.get_partial_shape().rank
    axes = rank.get_length() if rank.is_static else 0
    if constant.get_type_name() != "Constant" or constant.data.ndim != axes or axes <= CHANNELS:
        return None
    by_channel = constant.data.shape[CHANNELS] == constant.data.size
    return (source, constant.data.copy(), ends) if by_channel else None


def _only_rounded(source: Any) -> bool:
    """Whether all that reads an output rounds it by a grid for all channels, factors of the channels aside."""
    readers = [port.get_node() for port in source.get_target_inputs()]
    for reader in readers:
        divided = reader.get_type_name() == "Divide"
        rounding = [port.get_node() for port in reader.output(0).get_target_inputs()] if divided else [reader]
        if not all(node.get_type_name() == "FakeQuantize" and _grid(node) is not None for node in rounding):
            return False
    return True


def _joined(source: Any) -> Any:
    """The Concat of channels that gives an output; None where it is something else."""
    node = source.get_node()
    if node.get_type_name() != "Concat" or node.get_attributes()["axis"] != CHANNELS:
        return None
    lengths = (port.get_partial_shape()[CHANNELS] for port in node.inputs())
    return node if all(length.is_static for length in lengths) else None


def _key(source: Any, divisor: np.ndarray | None, ends: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    """The same for what gives the same integers."""
    own = None if divisor is None or (divisor == 1).all() else divisor.tobytes()
    return source.get_node().get_name(), source.get_index(), own, tuple(float(end.item()) for end in ends)
