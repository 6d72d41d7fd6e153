"""Whether what a runtime or an export computes is what the engine computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medquant.deploy.program import decoded_program, rounds_inputs
from medquant.errors import UserError
from medquant.memory import lacks_memory
from medquant.models.base import device_of

if TYPE_CHECKING:
    from medquant.deploy.runtime import Session
    from medquant.models.base import Part

Outputs = tuple[torch.Tensor, ...]

EXACT = 2e-3
"""Bound of the relative difference where both compute in FP32: the order of sums differs, nothing else."""
ONE_LONG_SUM = 0.01
"""The same for ONNX: onnxruntime adds up each channel of an instance norm at one go (.002 of an nnU-Net's output with
patches of 96^3 voxels)."""
ROUNDED = 0.05
"""Bound where inputs are rounded to integers: a sum that differs in its last bit may round to the next integer."""
SHORT = {"bf16": 0.1, "fp16": 0.05}
"""Bounds where floating point itself is shorter: errors of 2^-8 and 2^-11 a number add up over the layers."""
LAST_BITS = 1e-5
"""Of an input's deviation: what another order of sums does."""
TIPPED = 2.0
"""A runtime may differ by so many times what the last bits do to the engine's own network, see `tipping`."""

_BY_ONNX = ("onnx", "onnxruntime", "tensorrt")


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the squared difference over the squared expected values; infinite where the shapes differ."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    apart = float(np.linalg.norm(found.astype(np.float64) - expected))
    return apart / size if size else apart


def bound_of_export(module: torch.nn.Module, form: str) -> float:
    """How much an export of a part, in the format `form`, may differ from the engine's network."""
    if rounds_inputs(module):
        return ROUNDED
    return ONE_LONG_SUM if form in _BY_ONNX else EXACT


def bound_of_session(session: Session) -> float:
    """How much a part may differ that a runtime computes, from the network that rounds what the runtime rounds.

    With integers, what is not on integers is in the shortest floating point.
    """
    if session.precision == "int8":
        return max(ROUNDED, *SHORT.values())
    return SHORT.get(session.precision, ONE_LONG_SUM if session.runtime in _BY_ONNX else EXACT)


@torch.inference_mode()
def tipping(module: torch.nn.Module, inputs: Sequence[torch.Tensor], outputs: Sequence[np.ndarray]) -> float:
    """What the last bits of `inputs` do to the `outputs` of a network that rounds, as a relative difference.

    With few levels a number that moves in its last bit may move by a sixteenth of its range, and so on from layer to
    layer: a small network with 4-bit inputs then differs from itself by a tenth and more. No runtime, whose sums have
    an order of their own, can be closer.
    """
    generator, device = torch.Generator().manual_seed(0), device_of(module)
    moved = [
        one + LAST_BITS * one.std() * torch.randn(one.shape, generator=generator) if one.is_floating_point() else one
        for one in (tensor.cpu() for tensor in inputs)
    ]
    found = _outputs(module(*(tensor.to(device) for tensor in moved)))
    return max(relative_difference(one.numpy(), other) for one, other in zip(found, outputs, strict=True))


class Reference:
    """What the engine's own network gives for the examples of a model's parts; computed once, when it is asked for."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = parts
        self.rounded: dict[str, Outputs] = {}
        """By part: with inputs rounded as the recipe says; to be filled by whoever ran the network anyway."""
        self._unrounded: dict[str, Outputs] = {}

    @torch.inference_mode()
    def check(self, name: str, session: Session) -> bool:
        """Whether a session was seen to compute its part; False where the memory does not suffice to compare.

        Raises `UserError` where it computes something else.
        """
        try:
            expected = self._expected(name, session)
            found = _outputs(session(*(tensor.cpu() for tensor in self._parts[name].inputs.values())))
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            return False
        pairs = zip(found, expected, strict=True)
        apart = max(relative_difference(one.numpy(), other.numpy()) for one, other in pairs)
        if not apart <= bound_of_session(session) and not apart <= self._tipping(name, session):
            share = f"by {apart:.0%}, more than rounding explains" if math.isfinite(apart) else "in numbers or shape"
            raise UserError(
                f"What {session.runtime} {session.precision} makes of the {name.replace('_', ' ')} differs from "
                f"PyTorch's {share}. Use --runtime pytorch."
            )
        return True

    def _tipping(self, name: str, session: Session) -> float:
        """By how much a session with integers may differ in a network that the last bits tip."""
        part = self._parts[name]
        if session.precision != "int8" or not rounds_inputs(part.module):
            return 0.0
        expected = [one.numpy() for one in self._expected(name, session)]
        return TIPPED * tipping(part.module, list(part.inputs.values()), expected)

    def _expected(self, name: str, session: Session) -> Outputs:
        """What a session has to give: outside integers nothing is rounded, so there it is the network without that."""
        part = self._parts[name]
        if session.precision == "int8" or not rounds_inputs(part.module):
            if name not in self.rounded:
                self.rounded[name] = _outputs(part.module(*part.inputs.values()))
            return self.rounded[name]
        if name not in self._unrounded:
            module = decoded_program(part.module, integers=False)
            self._unrounded[name] = _outputs(module(*(tensor.cpu() for tensor in part.inputs.values())))
        return self._unrounded[name]


def _outputs(found: Any) -> Outputs:
    return tuple(tensor.float().cpu() for tensor in (found if isinstance(found, (tuple, list)) else (found,)))
