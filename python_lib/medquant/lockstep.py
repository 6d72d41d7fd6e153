"""Running a network on several inputs at once, all of them stopping at each layer together.

Sequential calibration needs, layer by layer, the inputs of the FP32 network and those of the network quantized so
far. Running the network anew for each layer costs as many passes as there are layers, and cutting it into stages
needs its graph. Here every input is a coroutine that halts when it reaches a layer; when all have arrived, the layer is
quantized and they go on. One pass in all, for any network that calls its layers in a fixed order. Greenlets rather than
threads: they may halt anywhere inside a network's code, only one runs at a time, so the order of computation, and with
it the result, is fixed, and the arithmetic keeps the one pool of threads that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from greenlet import GreenletExit, greenlet
from torch import nn

from medquant.errors import UserError

Computation = Callable[..., torch.Tensor]
"""Computes a layer from the arguments of its call."""


class _Runner:
    """One input on its way through the network."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._coroutine = greenlet(work)
        self.layer: str | None = None
        """Where it halts; None before its beginning and after its end."""
        self.inputs: torch.Tensor | None = None
        self.known: dict[str, Computation] = {}
        """The computation of every layer that it has reached."""

    def arrive(self, layer: str, inputs: torch.Tensor) -> None:
        """Called inside the network: go back to whom that had it advance, until `known` has the layer."""
        self.layer, self.inputs = layer, inputs
        self._coroutine.parent.switch()
        self.layer = self.inputs = None

    def advance(self) -> None:
        """Let the runner go to its next layer, or to its end. What its network raises comes out here."""
        self._coroutine.switch()

    def stop(self) -> None:
        """Unwind the network's code where it halts."""
        if not self._coroutine.dead:
            self._coroutine.throw(GreenletExit)


def run_in_lockstep(
    layers: dict[str, nn.Module],
    runs: Sequence[Callable[[], Any]],
    at_layer: Callable[[str, list[torch.Tensor]], Sequence[Computation]],
) -> None:
    """Do all `runs`, which call the same network, and halt them together at the first call of each of `layers`.

    `at_layer(name, inputs)` gets the input of every run and returns for each the function that computes the layer,
    then and for any later call of the same layer. Raises `UserError` when the runs reach layers in different orders,
    and whatever a run or `at_layer` raises; the layers are left as they were.
    """
    runners = [_Runner(run) for run in runs]
    current: list[_Runner] = []

    def advance(runner: _Runner) -> None:
        current[:] = [runner]
        with torch.inference_mode():
            runner.advance()

    def patched(name: str) -> Computation:
        # The argument is named as in torch; a transposed convolution may be asked for an output size as well.
        def forward(input: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            (runner,) = current
            if name not in runner.known:
                runner.arrive(name, input)
            return runner.known[name](input, *rest, **options)

        return forward

    for name, layer in layers.items():
        layer.forward = patched(name)
    try:
        for runner in runners:
            advance(runner)
        while any(runner.layer is not None for runner in runners):
            name = runners[0].layer
            if any(runner.layer != name for runner in runners):
                raise UserError(
                    "The network does not call its layers in the same order for every calibration input. "
                    "Quantize it with sequential calibration turned off, or with one input."
                )
            computations = at_layer(name, [runner.inputs for runner in runners])
            for runner, computation in zip(runners, computations, strict=True):
                runner.known[name] = computation
                advance(runner)
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)
        for runner in runners:
            runner.stop()
