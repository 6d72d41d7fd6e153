"""Passes of a network that begin where something has changed: what lies before is not computed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

HELD_MB = 1000.0
"""Outputs that are kept, at most, of all passes that are kept at once; the others are computed again."""

Forward = Callable[..., Any]


@dataclass
class _Call:
    """One call of a piece in the pass that was recorded."""

    piece: str
    done: float = float("inf")
    """When it was, in seconds from the beginning of the pass."""
    next: int = 0
    """The number of the first call after it that is not inside it."""
    output: Any = None
    """None: not kept."""


class Replay:
    """The outputs of a network's pieces in one pass, given back in later passes to whatever came before a change.

    Pieces are the members of its lists of blocks, and the modules beside those. The network must do the same in every
    pass, but for the layer that was changed.
    """

    def __init__(self, network: nn.Module, among: int = 1) -> None:
        """`among`: how many passes are kept at once, and share `HELD_MB` evenly."""
        self._network, self._room = network, HELD_MB / among
        self._pieces = {id(module): (name, module) for name, module in _pieces(network, "")}.values()
        self._calls: list[_Call] = []
        self.began: dict[str, float] = {}
        """When each layer was first called, in seconds from the beginning of the pass, in the order of the calls."""
        self.seconds = 0.0
        """Of the pass that was recorded."""
        self.held_mb = 0.0
        """Of its outputs that are kept."""

    def record(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """One whole pass, remembered."""
        start = time.perf_counter()
        self.began, self._calls, self.held_mb = {}, [], 0.0

        def recording(name: str, forward: Forward) -> Forward:
            def call(*args: Any, **options: Any) -> Any:
                this = _Call(name)
                self._calls.append(this)
                output = forward(*args, **options)
                size = sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)) / 1e6
                if self.held_mb + size <= self._room:
                    this.output = _copied(output)
                    self.held_mb += size
                this.done, this.next = time.perf_counter() - start, len(self._calls)
                return output

            return call

        def note(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self.began.setdefault(name, time.perf_counter() - start)

            return hook

        leaves = [(name, module) for name, module in self._network.named_modules() if not any(module.children())]
        hooks = [module.register_forward_pre_hook(note(name)) for name, module in leaves]
        try:
            with self._called_through(recording):
                output = run()
        finally:
            for hook in hooks:
                hook.remove()
        self.seconds = time.perf_counter() - start
        return output

    def again(self, layer: str, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The same pass with `layer` changed: pieces that were done before its first call are not computed."""
        changed, number = self.began[layer], 0

        def replaying(name: str, forward: Forward) -> Forward:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal number
                known = self._calls[number] if number < len(self._calls) else _Call("")
                number += 1
                if known.piece == name and known.output is not None and known.done <= changed:
                    number = known.next
                    return _copied(known.output)
                return forward(*args, **options)

            return call

        with self._called_through(replaying):
            return run()

    def part_of_a_pass(self, layer: str) -> float:
        """How much of a pass's time `again` takes, roughly."""
        return max(0.02, 1.0 - self.began[layer] / max(self.seconds, 1e-9))

    @contextmanager
    def _called_through(self, wrap: Callable[[str, Forward], Forward]) -> Iterator[None]:
        """Inside, every piece is called through `wrap(name, forward)`."""
        before = [(module, module.__dict__.get("forward")) for _, module in self._pieces]
        try:
            for name, module in self._pieces:
                module.forward = wrap(name, module.forward)
            yield
        finally:
            for module, own in before:
                module.__dict__.pop("forward", None)
                if own is not None:
                    module.forward = own


def _pieces(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _pieces(child, f"{path}.")
        elif next(child.parameters(), None) is not None:
            yield path, child
            if not name.isdigit():
                yield from _pieces(child, f"{path}.")


def _copied(output: Any) -> Any:
    """What came out, in tensors of its own: a network may go on writing into its own."""
    return tree_map_only(torch.Tensor, torch.clone, output)
