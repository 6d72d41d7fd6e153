"""The smallest model that is still safe: bits by sensitivity, checked on what did not calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.mixed.chain import Allocation
from medquant.mixed.held_out import HeldOut, Tried, parted
from medquant.mixed.plan import BITS, plan
from medquant.mixed.verification import Checked, Kept, Verification
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.prompts import BoxPrompt
from medquant.quantized_model import QuantizedModel
from medquant.recipe import Recipe
from medquant.sensitivity.change import Change

CLOSE = 0.02
"""The search ends where the sizes that are left differ by less than this part."""
DSC_BESIDE_VOLUME = 0.95
"""Mean Dice to ask for where the volumes are what counts: these alone would let a mask wander."""
TRIES = 3
"""Candidates of one size that are quantized, at most."""


@dataclass(frozen=True)
class Tolerance:
    """What still counts as safe, against the FP32 masks of what did not calibrate."""

    dsc: float = 0.99
    """Mean Dice of the structures, at least."""
    volume_change: float | None = None
    """Relative change of any structure's volume, at most; None: not looked at."""

    def __post_init__(self) -> None:
        if not 0 < self.dsc <= 1:
            raise UserError(f"A Dice to keep lies between 0 and 1, not {self.dsc}. Choose 0.99.")
        if self.volume_change is not None and not self.volume_change > 0:
            raise UserError("A volume change to allow is positive. Choose 0.01 for one per cent.")

    def allows(self, change: Change | Kept) -> bool:
        """Whether masks that changed so much are safe."""
        small = self.volume_change is None or change.volume_change <= self.volume_change
        return change.dsc >= self.dsc and small

    def describe(self) -> str:
        """In words."""
        volume = "" if self.volume_change is None else f" and volumes within {self.volume_change:.1%}"
        return f"Dice against FP32 at least {self.dsc:g}{volume}"


@dataclass(frozen=True)
class SafeModel:
    """What the search found."""

    quantized: QuantizedModel
    """The smallest that is safe; where none is, the most precise that was tried."""
    safe: bool
    change: Change | Kept
    tolerance: Tolerance
    allocation: Allocation
    tried: tuple[Tried, ...]
    """In the order in which they were."""
    held_out: int
    """So many slices (or inputs, where no scan was given) checked and did not calibrate."""
    seconds: float
    """Of the whole search."""
    checked: Checked | None = None
    """How; None where no scan was given."""

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
            **({} if self.checked is None else asdict(self.checked)),
            "held_out": self.held_out,
            "search_seconds": self.seconds,
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
    prompt: BoxPrompt | None = None,
    verify: Callable[[QuantizedModel], Change | Kept] | None = None,
    tried: Callable[[Tried], None] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> SafeModel:
    """Find the fewest bits for which the masks stay within `tolerance`.

    The layers' effects give allocations of every size (`plan`); the sizes are searched by halves. At each of them
    several candidates are quantized by `recipe` and checked until one is safe, for effects that were measured layer by
    layer need not add up (`families`). Of scans a part is held out, no voxel of which calibrates or measures, and
    candidates are checked by segmenting it (`verification`), with the boxes of `prompt` where the model takes any, else
    with boxes drawn at random. Of inputs one of three is held out, and its output looked at. `verify` may have another
    look at a candidate that held; what it says counts as well. Each candidate goes to `tried`. `model` stays as it is.
    Raises `UserError` where there is nothing to hold out.
    """
    began = time.perf_counter()
    tolerance, recipe = tolerance or Tolerance(), recipe or Recipe()
    tracker = Progress(progress, cancelled)
    calibrating, hashes, verification = _inputs(model, calibration, selection, prompt, tracker)
    checking: list[CalibrationBatch] = []
    if verification is None:
        calibrating, checking = parted(calibrating)
    limits = {"ignore": ignore, "max_memory_mb": max_memory_mb}
    planning = tracker.span(0.05, 0.3)
    planned = plan(model, calibrating, recipe=recipe, bits=bits, **planning.callbacks(), **limits)
    held_out = HeldOut(model, calibrating, checking, recipe, **limits)
    check = held_out.change if verification is None else verification
    known: dict[tuple, Tried] = {}
    best: tuple[QuantizedModel, Tried, Allocation] | None = None

    def attempt(allocation: Allocation, part: Progress) -> bool:
        nonlocal best
        if allocation.key in known:
            return known[allocation.key].safe
        quantized = held_out.quantized(allocation, part)
        quantized.provenance = replace(quantized.provenance, calibration_sha256=hashes)
        change = check(quantized)
        if verify is not None and tolerance.allows(change):
            change = _worse(change, verify(quantized))
        one = Tried(quantized.report.effective_bits, allocation.effect, change, tolerance.allows(change))
        known[allocation.key] = one
        if best is None or _better(one, best[1]):
            best = quantized, one, allocation
        if tried is not None:
            tried(one)
        return one.safe

    def attempts(size: int, part: Progress) -> bool:
        candidates = planned.candidates(size)[:TRIES]
        spans = (part.span(n / len(candidates), (n + 1) / len(candidates)) for n in range(len(candidates)))
        return any(attempt(one, span) for one, span in zip(candidates, spans, strict=True))

    _search(planned.sizes, attempts, tracker.span(0.3, 1.0))
    quantized, one, allocation = best
    tracker.report(1.0, "Found")
    checked = None if verification is None else verification.checked(quantized)
    return SafeModel(
        quantized,
        one.safe,
        one.change,
        tolerance,
        allocation,
        tuple(known.values()),
        len(checking) if checked is None else checked.slices,
        time.perf_counter() - began,
        checked,
    )


def _inputs(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    selection: CalibrationSelection | None,
    prompt: BoxPrompt | None,
    tracker: Progress,
) -> tuple[list[CalibrationBatch], tuple[str, ...], Verification | None]:
    """Inputs, the hashes of the scans that they were cut from, and how those scans check; None where there are none."""
    selection = selection or CalibrationSelection()
    volumes = [calibration] if isinstance(calibration, Volume) else list(calibration)
    if not volumes or not isinstance(volumes[0], Volume):
        if prompt is not None:
            raise UserError("Boxes belong to a scan. Give the scan, not inputs that were cut from it.")
        return *calibration_inputs(model, calibration, selection, tracker), None
    tracker.report(0.0, "Segmenting what is held out")
    verification = Verification(model, volumes, selection, prompt, tracker)
    batches: list[CalibrationBatch] = []
    for part, wanted in verification.calibrating:
        batches += calibration_inputs(model, part, wanted, tracker)[0]
    return batches, tuple(volume.content_hash() for volume in volumes), verification


def _worse(one: Change | Kept, other: Change | Kept) -> Change | Kept:
    """The smaller Dice, the larger change of volume and the worst structure of both."""
    return replace(
        one,
        dsc=min(one.dsc, other.dsc),
        volume_change=max(one.volume_change, other.volume_change),
        worst_dsc=min(one.worst_dsc, other.worst_dsc),
    )


def _better(one: Tried, other: Tried) -> bool:
    """Safe and smaller; where neither is safe, more precise."""
    if one.safe != other.safe:
        return one.safe
    return (one.effective_bits < other.effective_bits) == one.safe


def _search(sizes: Sequence[int], attempt: Callable[[int, Progress], bool], tracker: Progress) -> None:
    """Look for the first of growing `sizes` for which `attempt` holds, by halves."""
    low, high, done = -1, len(sizes), 0.0
    while high - low > 1:
        if low >= 0 and high < len(sizes) and sizes[high] - sizes[low] < CLOSE * sizes[high]:
            break
        middle = (low + high) // 2
        part = done + (1 - done) / max(2, (high - low).bit_length())
        held = attempt(sizes[middle], tracker.span(done, part))
        low, high, done = (low, middle, part) if held else (middle, high, part)
