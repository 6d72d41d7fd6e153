"""What lies between a network's layers: where a factor of a channel passes through unchanged.

One pass is watched. A factor that a layer (or a norm's own factors) gives to a channel reaches the next layer where
nothing but functions f(a x) = a f(x), a > 0, that keep the channels apart lie between: ReLU, LeakyReLU, PReLU, pooling,
interpolation, dropout in evaluation. A sum, a concatenation, any other activation, and a norm that would take the
factor away end it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from medquant.matrices import is_quantizable
from medquant.observe import BATCH_NORMS

HOMOGENEOUS = {
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "contiguous", "clone", "interpolate"),
    *(f"{kind}{dims}" for kind in ("dropout", "alpha_dropout", "feature_dropout") for dims in ("", "1d", "2d", "3d")),
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2, 3)),
}
"""Names of torch's functions, of the first argument."""
NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm)


@dataclass(eq=False)
class Chain:
    """What one layer or affine norm makes, and the layers that read it."""

    maker: str
    last_axis: bool
    """Whether the channels are last, as of linear layers; else they are second."""
    readers: list[str] = field(default_factory=list)
    broken: bool = False
    """Whether something else reads it as well."""
    reaches: list[torch.Tensor] = field(default_factory=list)
    """Of each reader: the largest absolute value that it gets of each channel (channels,), in the pass watched."""

    def read_by(self, name: str, inputs: torch.Tensor) -> None:
        """A layer reads `inputs`, which follow from what was made."""
        others = [axis for axis in range(inputs.ndim) if axis != (inputs.ndim - 1 if self.last_axis else 1)]
        self.readers.append(name)
        self.reaches.append(torch.maximum(inputs.amax(others), -inputs.amin(others)).float())


def find_chains(network: nn.Module, run: Callable[[], torch.Tensor]) -> list[Chain]:
    """Those of one pass of `run()`, which calls `network`, in which nothing but layers reads what was made.

    Makers and readers are called once each; a maker is a plain layer or a norm with factors of its own.
    """
    watch = _Watch()
    calls: dict[str, int] = {}
    hooks = []
    for name, module in network.named_modules():
        if is_quantizable(module) or isinstance(module, NORMS):
            before, after = watch.hooks(name, module, calls)
            hooks += [
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(after, with_kwargs=True),
            ]
    try:
        with torch.inference_mode(), watch:
            watch.read_elsewhere(run())
    finally:
        for hook in hooks:
            hook.remove()
    kinds = {name: isinstance(module, nn.Linear) for name, module in network.named_modules()}
    return [
        chain
        for chain in watch.chains
        if chain.readers
        and not chain.broken
        and all(calls[name] == 1 for name in (chain.maker, *chain.readers))
        and all(kinds[name] == chain.last_axis for name in chain.readers)
    ]


class _Watch(TorchFunctionMode):
    """Follows what layers make through the functions of torch that are called outside of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.chains: list[Chain] = []
        self._of: dict[int, tuple[weakref.ref, Chain]] = {}
        self._inside = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._inside:
            return result
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if not made:
            return result  # asked for a shape or a type
        first = self._chain_of(args[0]) if args else None
        if first is not None and getattr(func, "__name__", "") in HOMOGENEOUS and len(made) == 1:
            self.read_elsewhere((args[1:], kwargs))
            self._follow(made[0], first)
            return result
        self.read_elsewhere((args, kwargs))
        for tensor in made:
            self._of.pop(id(tensor), None)
        return result

    def hooks(self, name: str, module: nn.Module, calls: dict[str, int]) -> tuple[Callable[..., None], ...]:
        """What to call before and after a layer or norm."""
        layer = is_quantizable(module)
        weight = module._parameters.get("weight")
        factors = weight is not None and (layer or weight.ndim == 1)
        last_axis = isinstance(module, nn.Linear | nn.LayerNorm)

        def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            self._inside += 1  # from here on nothing is watched
            if self._inside > 1:
                return
            calls[name] = calls.get(name, 0) + 1
            inputs = args[0] if args else options.get("input")
            chain = self._chain_of(inputs)
            if chain is not None and layer:
                chain.read_by(name, inputs)
            elif chain is not None:
                chain.broken = True

        def after(_: nn.Module, args: Any, options: Any, output: torch.Tensor) -> None:
            self._inside -= 1
            if not self._inside and factors:
                chain = Chain(name, last_axis)
                self.chains.append(chain)
                self._follow(output, chain)

        return before, after

    def read_elsewhere(self, values: Any) -> None:
        """Something that is no layer reads these."""
        for leaf in tree_leaves(values):
            chain = self._chain_of(leaf)
            if chain is not None:
                chain.broken = True

    def _follow(self, tensor: torch.Tensor, chain: Chain) -> None:
        self._of[id(tensor)] = weakref.ref(tensor), chain

    def _chain_of(self, value: Any) -> Chain | None:
        known, chain = self._of.get(id(value), (lambda: None, None))
        return chain if value is not None and known() is value else None
