"""The most precise model of a given size: several allocations of it, checked on inputs that did not calibrate."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, stdev

from medquant.errors import UserError
from medquant.mixed.chain import Allocation
from medquant.mixed.families import Plan
from medquant.mixed.held_out import HeldOut
from medquant.progress import Progress
from medquant.quantized_model import QuantizedModel
from medquant.sensitivity.change import Change

CLOSE = 0.02
"""Divergences that differ by less than this part are a tie."""
LEAST, MOST = 1e-12, 1e6
"""Divergences are told apart between these."""
SIZING = 4
"""Times that the size of the smallest file is asked until its weights are known to fit."""


@dataclass(frozen=True)
class Candidate:
    """An allocation, what came of it, and what its masks are on inputs that did not calibrate."""

    allocation: Allocation
    bytes_on_disk: int
    changes: tuple[Change, ...]
    """Of each input that checked, in the same order for every candidate."""

    @property
    def dsc(self) -> float:
        """Mean Dice of the masks against FP32's."""
        return fmean(one.dsc for one in self.changes)

    @property
    def divergence(self) -> float:
        """Of the classes' probabilities from FP32's, geometric mean over the inputs.

        This is what models are chosen by: a structure of a few voxels, found or not, moves the Dice more than the bits
        of a layer do.
        """
        return exp(fmean(self._logs))

    def beats(self, other: Candidate) -> bool:
        """Whether its divergence is less by more than a standard error of the ratio, which is paired by input."""
        ahead = [theirs - ours for ours, theirs in zip(self._logs, other._logs, strict=True)]
        error = stdev(ahead) / sqrt(len(ahead)) if len(ahead) > 1 else 0.0
        return fmean(ahead) > max(CLOSE, error)

    @property
    def _logs(self) -> list[float]:
        return [log(min(max(one.divergence, LEAST), MOST)) for one in self.changes]


def best_of_size(
    plan: Plan,
    folds: Sequence[HeldOut],
    most_bytes: int,
    *,
    tried: Callable[[Candidate], None] | None = None,
    tracker: Progress | None = None,
) -> Candidate:
    """Of the plan's candidates, the same bits everywhere among them, the one of at most `most_bytes` on disk that keeps
    the masks best.

    Each of `folds` calibrates a candidate with some inputs and checks it on others; all these checks count. The size is
    that of the first. A candidate that turns out too large is asked again with fewer bits. Raises `UserError` where
    none is so small.
    """
    tracker = tracker or Progress()
    found: dict[tuple, Candidate] = {}
    # What a file holds beside the weights, by whether its bits are the same everywhere: else it names layers.
    beside, done = {True: 0, False: 0}, 0.0
    for last in (False,) * (SIZING - 1) + (True,):
        room = {even: 8 * (most_bytes - one) for even, one in beside.items()}
        asked = [one for one in _asked(plan, room[False], room[True]) if one.key not in found]
        for number, allocation in enumerate(asked):
            upto = done + (1 - done) / (len(asked) - number)
            one, done = _candidate(allocation, folds, most_bytes, tracker.span(done, upto)), upto
            even = allocation.spread == 0
            beside[even] = max(beside[even], one.bytes_on_disk - allocation.stored_bits // 8)
            if one.bytes_on_disk > most_bytes:
                if last:
                    continue
                break  # what a file holds beside the weights is known now: all are asked again
            found[allocation.key] = one
            if tried is not None:
                tried(one)
        else:
            break
    if not found:
        raise UserError(f"No model is as small as {most_bytes} bytes. Allow more, or fewer bits in a layer.")
    return steadiest(list(found.values()))


def _candidate(allocation: Allocation, folds: Sequence[HeldOut], most_bytes: int, tracker: Progress) -> Candidate:
    """Checked by all folds, unless it is too large."""
    size, changes = 0, []
    for place, fold in enumerate(folds):
        quantized = fold.quantized(allocation, tracker.span(place / len(folds), (place + 1) / len(folds)))
        if (size := size or size_of(quantized)) > most_bytes:
            break
        changes += fold.changes(quantized)
    return Candidate(allocation, size, tuple(changes))


def _asked(plan: Plan, stored_bits: int, stored_bits_of_even: int) -> list[Allocation]:
    """The same bits everywhere, as what is left may do no good, and the plan's candidates."""
    candidates, even = plan.candidates(stored_bits), plan.even(stored_bits_of_even)
    return candidates if even is None or even.key in {one.key for one in candidates} else [even, *candidates]


def steadiest(candidates: Sequence[Candidate]) -> Candidate:
    """Of those that the one with the least divergence does not beat, the one whose bits lie closest together, then the
    smallest: the one-standard-error rule (Breiman et al. 1984)."""
    best = min(candidates, key=lambda one: one.divergence)
    good = [one for one in candidates if not best.beats(one)]
    return min(good, key=lambda one: (one.allocation.spread, one.bytes_on_disk, _order(one.allocation)))


def _order(allocation: Allocation) -> tuple[tuple[tuple[str, int], ...], int]:
    """For equals; of the same bits those of the more precise model come first."""
    return allocation.bits, -(allocation.nominal or 0)


def size_of(quantized: QuantizedModel) -> int:
    """Bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        return quantized.save(Path(folder) / "model.mq.safetensors")
