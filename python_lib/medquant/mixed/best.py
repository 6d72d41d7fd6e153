"""The most precise model of a given size: several allocations of it, checked on inputs that did not calibrate."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medquant.errors import UserError
from medquant.mixed.chain import Allocation
from medquant.mixed.families import Plan
from medquant.mixed.held_out import HeldOut
from medquant.progress import Progress
from medquant.quantized_model import QuantizedModel
from medquant.sensitivity.change import Change

CLOSE = 0.0005
"""Dice that differ by less are a tie."""
SIZING = 3
"""Times that the size of the smallest file is asked until its weights are known to fit."""


@dataclass(frozen=True)
class Candidate:
    """An allocation, what came of it, and what its masks are on inputs that did not calibrate."""

    allocation: Allocation
    bytes_on_disk: int
    change: Change


def best_of_size(
    plan: Plan,
    held_out: HeldOut,
    most_bytes: int,
    *,
    tried: Callable[[Candidate], None] | None = None,
    tracker: Progress | None = None,
) -> Candidate:
    """Of the plan's candidates, the same bits everywhere among them, the one of at most `most_bytes` on disk that keeps
    the masks best.

    A candidate that turns out too large is asked again with fewer bits. Raises `UserError` where none is so small.
    """
    tracker = tracker or Progress()
    found: dict[tuple, Candidate] = {}
    done = 0.0
    for _ in range(SIZING):
        asked = [one for one in _asked(plan, 8 * (most_bytes - held_out.beside)) if one.key not in found]
        for number, allocation in enumerate(asked):
            upto = done + (1 - done) / (len(asked) - number)
            quantized, done = held_out.quantized(allocation, tracker.span(done, upto)), upto
            size = size_of(quantized)
            held_out.beside = max(held_out.beside, size - allocation.stored_bits // 8)
            if size > most_bytes:
                break  # what a file holds beside the weights is known now: all are asked again
            found[allocation.key] = one = Candidate(allocation, size, held_out.change(quantized))
            if tried is not None:
                tried(one)
        else:
            break
    if not found:
        raise UserError(f"No model is as small as {most_bytes} bytes. Allow more, or fewer bits in a layer.")
    return steadiest(list(found.values()))


def _asked(plan: Plan, stored_bits: int) -> list[Allocation]:
    """The plan's candidates, and the same bits everywhere: what is left may do no good."""
    candidates, even = plan.candidates(stored_bits), plan.even(stored_bits)
    return candidates if even is None or even.key in {one.key for one in candidates} else [*candidates, even]


def steadiest(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the best Dice; of those as good as it the one whose bits lie closest together, then the smallest."""
    most = max(one.change.dsc for one in candidates)
    good = [one for one in candidates if one.change.dsc >= most - CLOSE]
    return min(good, key=lambda one: (one.allocation.spread, one.bytes_on_disk, _order(one.allocation)))


def _order(allocation: Allocation) -> tuple[tuple[tuple[str, int], ...], int]:
    """For equals; of the same bits those of the more precise model come first."""
    return allocation.bits, -(allocation.nominal or 0)


def size_of(quantized: QuantizedModel) -> int:
    """Bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        return quantized.save(Path(folder) / "model.mq.safetensors")
