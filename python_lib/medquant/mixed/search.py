"""The smallest model that is still safe: bits by sensitivity, checked on inputs that did not calibrate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.layers import decoded_once
from medquant.mixed.chain import Allocation
from medquant.mixed.plan import BITS, plan, recipe_for
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import Recipe
from medquant.sensitivity.change import Change, Expected

HELD_OUT = 3
"""One of so many inputs checks and does not calibrate."""
CLOSE = 0.02
"""The search ends where the sizes that are left differ by less than this part."""


@dataclass(frozen=True)
class Tolerance:
    """What still counts as safe, against the FP32 masks of inputs that did not calibrate."""

    dsc: float = 0.99
    """Mean Dice of the structures, at least."""
    volume_change: float | None = None
    """Relative change of any structure's volume, at most; None: not looked at."""

    def __post_init__(self) -> None:
        if not 0 < self.dsc <= 1:
            raise UserError(f"A Dice to keep lies between 0 and 1, not {self.dsc}. Choose 0.99.")
        if self.volume_change is not None and not self.volume_change > 0:
            raise UserError("A volume change to allow is positive. Choose 0.01 for one per cent.")

    def allows(self, change: Change) -> bool:
        """Whether masks that changed so much are safe."""
        small = self.volume_change is None or change.volume_change <= self.volume_change
        return change.dsc >= self.dsc and small

    def describe(self) -> str:
        """In words."""
        volume = "" if self.volume_change is None else f" and volumes within {self.volume_change:.1%}"
        return f"Dice against FP32 at least {self.dsc:g}{volume}"


@dataclass(frozen=True)
class Tried:
    """One allocation that was quantized and checked."""

    effective_bits: float
    predicted: float
    """The sum of its layers' effects."""
    change: Change
    """Of the masks on inputs that did not calibrate."""
    safe: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        told = asdict(self)
        return told | told.pop("change")


@dataclass(frozen=True)
class SafeModel:
    """What the search found."""

    quantized: QuantizedModel
    """The smallest that is safe; where none is, the most precise that was tried."""
    safe: bool
    change: Change
    tolerance: Tolerance
    allocation: Allocation
    tried: tuple[Tried, ...]
    """In the order in which they were."""
    held_out: int
    """So many inputs checked and did not calibrate."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        report = self.quantized.report
        return {
            "safe": self.safe,
            "tolerance": asdict(self.tolerance),
            "effective_bits": report.effective_bits,
            "bytes_on_disk": report.bytes_on_disk,
            "bits": self.allocation.of(),
            **asdict(self.change),
            "tried": [one.to_dict() for one in self.tried],
        }


def smallest_safe_model(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    tolerance: Tolerance | None = None,
    recipe: Recipe | None = None,
    bits: Sequence[int] = BITS,
    selection: CalibrationSelection | None = None,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    verify: Callable[[QuantizedModel], Change] | None = None,
    tried: Callable[[Tried], None] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> SafeModel:
    """Find the fewest bits for which the masks stay within `tolerance`.

    The layers' effects give an order of allocations from the smallest to the most precise (`plan`); it is searched by
    halves, each candidate quantized by `recipe` and checked on the calibration inputs that were held out (one of
    three). `verify` may look at a candidate that held, by segmenting a scan; what it says counts as well. Each
    candidate goes to `tried`. `model` stays as it is. Raises `UserError` where there are fewer than two inputs.
    """
    tolerance, recipe = tolerance or Tolerance(), recipe or Recipe()
    tracker = Progress(progress, cancelled)
    batches, hashes = calibration_inputs(model, calibration, selection or CalibrationSelection(), tracker)
    if len(batches) < 2:
        raise UserError("One input cannot calibrate and check. Choose at least two slices or patches.")
    held_out = batches[1::HELD_OUT]
    calibrating = [batch for number, batch in enumerate(batches) if number % HELD_OUT != 1]
    limits = {"ignore": ignore, "max_memory_mb": max_memory_mb}
    planning = tracker.span(0.05, 0.3)
    steps = plan(model, calibrating, recipe=recipe, bits=bits, **planning.callbacks(), **limits)
    check = _Check(model, held_out, verify)
    results: dict[int, tuple[QuantizedModel, Tried]] = {}

    def attempt(number: int, part: Progress) -> bool:
        chosen = recipe_for(steps[number], recipe)
        quantized = quantize(model, calibrating, recipe=chosen, **part.callbacks("Candidate"), **limits)
        quantized.provenance = replace(quantized.provenance, calibration_sha256=hashes)
        change = check.change(quantized, tolerance)
        one = Tried(quantized.report.effective_bits, steps[number].effect, change, tolerance.allows(change))
        results[number] = quantized, one
        if tried is not None:
            tried(one)
        return one.safe

    smallest = _search([step.stored_bits for step in steps], attempt, tracker.span(0.3, 1.0))
    best = max(results) if smallest is None else smallest
    quantized, one = results[best]
    tracker.report(1.0, "Found")
    attempts = tuple(found for _, found in results.values())
    return SafeModel(quantized, one.safe, one.change, tolerance, steps[best], attempts, len(held_out))


class _Check:
    """What a candidate's masks are on inputs that did not calibrate."""

    def __init__(
        self, model: Model, batches: Sequence[CalibrationBatch], verify: Callable[[QuantizedModel], Change] | None
    ) -> None:
        self._batches, self._verify = batches, verify
        self._expected = [Expected(logits, exclusive=model.exclusive(logits)) for logits in self._logits(model)]

    def change(self, quantized: QuantizedModel, tolerance: Tolerance) -> Change:
        """On the inputs; where they hold and a scan is to be segmented, the worse of both."""
        with decoded_once(quantized.model.network):
            found = self._logits(quantized.model)
            changes = [one.change(logits) for one, logits in zip(self._expected, found, strict=True)]
        change = Change.mean(changes)
        change = replace(change, volume_change=max(one.volume_change for one in changes))
        if self._verify is None or not tolerance.allows(change):
            return change
        scan = self._verify(quantized)
        return replace(
            change, dsc=min(change.dsc, scan.dsc), volume_change=max(change.volume_change, scan.volume_change)
        )

    def _logits(self, model: Model) -> Iterator[torch.Tensor]:
        for batch in self._batches:
            with torch.inference_mode():
                yield model.forward_for_calibration(model.network, *batch.inputs)


def _search(sizes: Sequence[int], attempt: Callable[[int, Progress], bool], tracker: Progress) -> int | None:
    """The first of growing `sizes` for which `attempt` holds, by halves; None where not even the last does."""
    low, high, done = -1, len(sizes), 0.0
    while high - low > 1:
        if low >= 0 and high < len(sizes) and sizes[high] - sizes[low] < CLOSE * sizes[high]:
            break
        middle = (low + high) // 2
        part = done + (1 - done) / max(2, (high - low).bit_length())
        held = attempt(middle, tracker.span(done, part))
        low, high, done = (low, middle, part) if held else (middle, high, part)
    return high if high < len(sizes) else None
