"""Running a network on several inputs at once, all of them stopping at each layer together.

Sequential calibration needs, layer by layer, the inputs of the FP32 network and those of the network quantized so
far. Running the network anew for each layer costs as many passes as there are layers, and cutting it into stages
needs its graph. Here every input has a thread of its own that halts when it reaches a layer; when all have arrived,
the layer is quantized and they go on. One pass in all, for any network that calls its layers in a fixed order.
Only one thread runs at a time, so the order of computation, and with it the result, is fixed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from medquant.errors import UserError


class _Stop(BaseException):
    """Unwinds a runner whose work is no longer wanted; not an Exception, so that no network swallows it."""


class _Runner(threading.Thread):
    """One input on its way through the network."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.go = threading.Semaphore(0)
        self.halted = threading.Semaphore(0)
        self.layer: str | None = None
        self.inputs: torch.Tensor | None = None
        self.answer: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.error: BaseException | None = None
        self.stopping = False

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self.stopping:
                with torch.inference_mode():
                    self.work()
        except _Stop:
            pass
        except BaseException as error:
            self.error = error
        self.layer = self.inputs = self.answer = None
        self.halted.release()

    def arrive(self, layer: str, inputs: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        """Called inside the network: wait for the layer's new computation, then do it."""
        self.layer, self.inputs = layer, inputs
        self.halted.release()
        self.go.acquire()
        if self.stopping:
            raise _Stop
        answer = self.answer
        self.inputs = self.answer = None
        return answer(inputs, *rest, **options)

    def advance(self) -> None:
        """Let the runner go to its next layer, or to its end."""
        self.go.release()
        self.halted.acquire()
        if self.error is not None:
            raise self.error


def run_in_lockstep(
    layers: dict[str, nn.Module],
    runs: Sequence[Callable[[], Any]],
    at_layer: Callable[[str, list[torch.Tensor]], Sequence[Callable[[torch.Tensor], torch.Tensor]]],
) -> None:
    """Do all `runs`, which call the same network, and halt them together at the first call of each of `layers`.

    `at_layer(name, inputs)` gets the input of every run and returns for each the function that computes the layer,
    then and for any later call of the same layer. Raises `UserError` when the runs reach layers in different orders,
    and whatever a run or `at_layer` raises; the layers are left as they were.
    """
    runners = [_Runner(run) for run in runs]
    answers: dict[tuple[int, str], Callable[[torch.Tensor], torch.Tensor]] = {}
    by_thread: dict[int, int] = {}

    def patched(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        # The argument is named as in torch; a transposed convolution may be asked for an output size as well.
        def forward(input: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            index = by_thread[threading.get_ident()]
            known = answers.get((index, name))
            if known is not None:
                return known(input, *rest, **options)
            return runners[index].arrive(name, input, *rest, **options)

        return forward

    for name, layer in layers.items():
        layer.forward = patched(name)
    try:
        for index, runner in enumerate(runners):
            runner.start()
            by_thread[runner.ident] = index
        for runner in runners:
            runner.advance()
        while any(runner.layer is not None for runner in runners):
            name = runners[0].layer
            if any(runner.layer != name for runner in runners):
                raise UserError(
                    "The network does not call its layers in the same order for every calibration input. "
                    "Quantize it with sequential calibration turned off, or with one input."
                )
            inputs = [runner.inputs for runner in runners]
            for index, (runner, answer) in enumerate(zip(runners, at_layer(name, inputs))):
                runner.answer = answers[index, name] = answer
            del inputs
            for runner in runners:
                runner.advance()
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)
        for runner in runners:
            runner.stopping = True
            runner.go.release()
        for runner in runners:
            runner.join()
