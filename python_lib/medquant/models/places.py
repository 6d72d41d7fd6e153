"""Where a row of a layer's input lies in the network's input: positions pushed through the network's own code.

Windows, shifts, patches, tokens and their padding are written down once, in the network. So the network itself is run,
once for each axis, on an input that holds the position along that axis instead of intensities. What moves numbers
moves positions (reshapes, rolls, windows); what computes leaves each row where it was: normalizations and activations
keep the position, a convolution lays its grid on that of its input, a linear layer has the mean over its row, attention
has that of the query. Padding has none. Where a computation is not known, or rows stand for no place (queries of a
decoder), the positions are lost, and nothing is told of the layers behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from medquant.matrices import by_channel, is_quantizable


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVING = _names("""
    view view_as reshape reshape_as flatten unflatten ravel permute transpose t swapaxes swapdims movedim moveaxis
    squeeze unsqueeze expand expand_as repeat repeat_interleave tile roll flip rot90 cat concat concatenate stack
    hstack vstack dstack chunk split split_with_sizes tensor_split unbind narrow select index_select gather take
    unfold pad getitem setitem empty_like contiguous clone detach to float type type_as cpu requires_grad
    get size dim ndimension numel nelement stride storage_offset element_size data_ptr get_device len repr
    is_contiguous is_floating_point is_complex
    mean amax amin interpolate upsample pixel_shuffle pixel_unshuffle avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
""")
"""Run as they are: they move numbers or tell of them, or take means of neighbours, whose place is the mean."""
STAYING = _names("""
    pow sqrt rsqrt exp log square abs neg sigmoid tanh relu leaky_relu prelu elu gelu silu mish hardswish hardsigmoid
    relu6 softplus softmax log_softmax clamp clamp_min clamp_max clip dropout dropout1d dropout2d dropout3d
    feature_dropout alpha_dropout layer_norm rms_norm group_norm instance_norm batch_norm local_response_norm normalize
    masked_fill baddbmm addmm
""")
"""Their result lies where their first operand does."""
JOINING = _names("""
    add radd iadd sub rsub isub mul rmul imul div truediv rtruediv itruediv true_divide maximum minimum
""")
"""Of two operands that with the positions of the larger one counts, of equal ones the first."""
PRODUCTS = _names("matmul bmm einsum scaled_dot_product_attention")
"""Of attention: the rows are those of the first operand, the queries."""


class Positions(torch.Tensor):
    """Positions along one axis of the network's input, in voxels, the same over all channels; NaN for padding."""

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """What comes of them: positions again, or a plain tensor where they are lost."""
        kwargs, name = kwargs or {}, func.__name__.strip("_")
        if name == "pad" and kwargs.get("mode", args[2] if len(args) > 2 else "constant") == "constant":
            args, kwargs = (args[0], kwargs.get("pad", args[1] if len(args) > 1 else None)), {"value": torch.nan}
        elif name not in MOVING:
            with torch._C.DisableTorchFunctionSubclass():
                found = _computed(name, func, args, kwargs)
                return func(*args, **kwargs) if found is None else found
        return super().__torch_function__(func, types, args, kwargs)


_STUMBLES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


def places_of_rows(network: nn.Module, run: Callable[..., Any], inputs: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    """Of each layer whose rows have a place: where they lie (spatial axes, rows), float32, in voxels of the image.

    `run(network, *inputs)` is one pass, of which the first input is the image (batch, channels, *spatial). Rows are
    those of `medquant.matrices.by_channel` at the layer's first call; NaN for padding. Layers that are not called, or
    whose rows stand for no place, are left out.
    """
    image, found = inputs[0], []
    for axis in range(2, image.ndim):
        shape = [image.shape[axis] if other == axis else 1 for other in range(image.ndim)]
        line = torch.arange(image.shape[axis], dtype=torch.float32).reshape(shape).expand(image.shape).contiguous()
        # Code that looks at the numbers may stumble over positions: what was heard before that stays.
        with _listening(network) as heard, torch.no_grad(), suppress(*_STUMBLES):
            run(network, line.as_subclass(Positions), *inputs[1:])
        found.append(heard)
    known = [name for name in (found[0] if found else ()) if all(name in heard for heard in found)]
    return {name: torch.stack([heard[name] for heard in found]) for name in known}


@contextmanager
def _listening(network: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    heard: dict[str, torch.Tensor] = {}
    called: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            given = arguments[0] if arguments else keywords["input"]
            if name not in called and isinstance(given, Positions):
                heard[name] = by_channel(module, given.as_subclass(torch.Tensor)).nanmean(0)
            called.add(name)

        return before

    layers = [(name, module) for name, module in network.named_modules() if is_quantizable(module)]
    hooks = [module.register_forward_pre_hook(hook(name), with_kwargs=True) for name, module in layers]
    try:
        yield heard
    finally:
        for one in hooks:
            one.remove()


def _computed(name: str, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor | None:
    """The positions of a computation's rows; None where they are lost."""
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
    if name in JOINING:
        shape = torch.broadcast_shapes(*(one.shape for one in operands))
        placed = [one for one in operands if isinstance(one, Positions)]
        return next((one for one in placed if one.shape == shape), _positions(placed[0].expand(shape)))
    first = operands[0]
    if name in STAYING or not isinstance(first, Positions):
        return first if isinstance(first, Positions) else None
    rows = first.as_subclass(torch.Tensor)
    if name == "linear":
        return _positions(rows.nanmean(-1, keepdim=True).expand(*rows.shape[:-1], len(args[1])).contiguous())
    if name in PRODUCTS:
        lead, shape = rows[..., :1], _shape(func, args, kwargs)
        even = torch.equal(lead.expand_as(rows).nan_to_num(-1e9), rows.nan_to_num(-1e9))
        fits = rows.ndim == len(shape) and rows.shape[:-1] == shape[:-1]
        return _positions(lead.expand(shape)) if even and fits else None
    if name.startswith(("conv", "max_pool")):
        return _positions(_strided(name, rows, _shape(func, args, kwargs), args, kwargs))
    return None


def _positions(values: torch.Tensor) -> torch.Tensor:
    return values.as_subclass(Positions)


def _shape(func: Callable, args: tuple, kwargs: dict) -> torch.Size:
    """That of the result, without computing it."""

    def empty(leaf: Any) -> Any:
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if torch.is_tensor(leaf) else leaf

    return func(*tree_map(empty, args), **tree_map(empty, kwargs)).shape


def _strided(name: str, rows: torch.Tensor, shape: torch.Size, args: tuple, kwargs: dict) -> torch.Tensor:
    """Of convolutions and pools: the grid of the output laid on that of the input, middle on middle."""
    pool = "pool" in name
    stride = kwargs.get("stride", args[2 if pool else 3] if len(args) > (2 if pool else 3) else None)
    stride = stride or (kwargs.get("kernel_size", args[1] if len(args) > 1 else 1) if pool else 1)
    values = rows.nanmean(1, keepdim=True)
    for axis in range(2, rows.ndim):
        step = stride if isinstance(stride, int) else stride[axis - 2 if len(stride) > 1 else 0]
        step = 1 / step if "transpose" in name else step
        output = torch.arange(shape[axis], dtype=torch.float32)
        values = _between(values, (output - (shape[axis] - 1) / 2) * step + (rows.shape[axis] - 1) / 2, axis)
    return values.expand(shape).contiguous()


def _between(values: torch.Tensor, at: torch.Tensor, axis: int) -> torch.Tensor:
    """Values at fractional indices along an axis; on the line of the outermost two beyond the ends."""
    if values.shape[axis] == 1:
        return values.index_select(axis, torch.zeros(len(at), dtype=torch.long))
    below = at.floor().clamp(0, values.shape[axis] - 2).long()
    part = (at - below).reshape([-1 if other == axis else 1 for other in range(values.ndim)])
    low, high = values.index_select(axis, below), values.index_select(axis, below + 1)
    between = low + part * (high - low)
    return torch.where(part == 0, low, torch.where(part == 1, high, between))  # beside padding
