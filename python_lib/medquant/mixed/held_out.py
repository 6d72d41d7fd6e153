"""Allocations that are quantized and checked on inputs that did not calibrate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from medquant.calibration_inputs import set_apart
from medquant.errors import UserError
from medquant.layers import decoded_once
from medquant.mixed.chain import Allocation
from medquant.mixed.parting import HELD_OUT, held_out_of
from medquant.mixed.plan import recipe_for
from medquant.mixed.verification import Kept
from medquant.models.base import CalibrationBatch, Model
from medquant.progress import Progress
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import Recipe
from medquant.sensitivity.change import Change, Expected


@dataclass(frozen=True)
class Tried:
    """One allocation that was quantized and checked."""

    effective_bits: float
    predicted: float
    """The sum of its layers' effects."""
    change: Change | Kept
    """Of the masks of what did not calibrate."""
    safe: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        told = asdict(self)
        return told | told.pop("change")


def parted(batches: Sequence[CalibrationBatch]) -> tuple[list[CalibrationBatch], list[CalibrationBatch]]:
    """The inputs that calibrate and those that check; which share voxels otherwise, only who made them knows.

    Raises `UserError` where there are fewer than two, and where no other input than those that calibrate is left.
    """
    held_out_of(len(batches))
    calibrating, apart = set_apart(batches, HELD_OUT)
    checking = [one for one in apart if not any(_same(one, other) for other in calibrating)]
    if not checking:
        raise UserError("The inputs that would check are those that calibrate. Give others, or a scan.")
    return calibrating, checking


def _same(one: CalibrationBatch, other: CalibrationBatch) -> bool:
    pairs = list(zip(one.inputs, other.inputs, strict=True))
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


class HeldOut:
    """What a candidate's masks are on inputs that did not calibrate it."""

    def __init__(
        self,
        model: Model,
        calibrating: Sequence[CalibrationBatch],
        checking: Sequence[CalibrationBatch],
        recipe: Recipe,
        **limits: Any,
    ) -> None:
        """`limits`: those of `medquant.quantize.quantize`."""
        self._model, self._calibrating, self._checking = model, list(calibrating), list(checking)
        self._recipe, self._limits = recipe, limits
        self._expected = [Expected(logits, exclusive=model.exclusive(logits)) for logits in self._logits(model)]

    def quantized(self, allocation: Allocation, tracker: Progress) -> QuantizedModel:
        """The model with these bits."""
        chosen, told = recipe_for(allocation, self._recipe), tracker.callbacks("Candidate")
        return quantize(self._model, self._calibrating, recipe=chosen, **told, **self._limits)

    def changes(self, quantized: QuantizedModel) -> list[Change]:
        """Of each input that checks."""
        with decoded_once(quantized.model.network):
            found = self._logits(quantized.model)
            return [one.change(logits) for one, logits in zip(self._expected, found, strict=True)]

    def change(self, quantized: QuantizedModel) -> Change:
        """Mean over the inputs; of the volumes' changes the largest, of the structures the worst."""
        changes = self.changes(quantized)
        volume, worst = max(one.volume_change for one in changes), min(one.worst_dsc for one in changes)
        return replace(Change.mean(changes), volume_change=volume, worst_dsc=worst)

    def _logits(self, model: Model) -> Iterator[torch.Tensor]:
        for batch in self._checking:
            with torch.inference_mode():
                yield model.forward_for_calibration(model.network, *batch.inputs)
