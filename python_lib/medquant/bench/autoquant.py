"""Mixed precision against the same bits everywhere, at equal size, on a scan that did not calibrate.

Network, scans and scores as in `medquant bench quality`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medquant.bench.organ_case import Crop, OrganCase
from medquant.errors import UserError
from medquant.mixed.best import SIZING, best_of_size, size_of
from medquant.mixed.families import Plan
from medquant.mixed.held_out import HeldOut
from medquant.mixed.plan import plan, recipe_for
from medquant.models.base import CalibrationBatch
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

PLANNED_BITS = (2, 3, 4, 8)
CALIBRATING: tuple[Crop, ...] = (
    ((0.0, 1.0), (0.0, 1.0), (0.0, 0.5)),
    ((0.06, 0.94), (0.08, 0.92), (0.0, 0.5)),
    ((0.0, 0.9), (0.1, 1.0), (0.0, 0.5)),
)
"""Of the body's upper half, on which the best model is looked for: two calibrate, the second measures the layers."""
CHECKING: tuple[Crop, ...] = (
    ((0.0, 1.0), (0.0, 1.0), (0.5, 1.0)),
    ((0.05, 0.85), (0.05, 1.0), (0.5, 1.0)),
)
"""Of the lower half, which shows all organs but the esophagus: no voxel of it calibrates or measures while the best
model is looked for. The rows are of models calibrated on all of the body, as in `medquant bench quality`."""


@dataclass(frozen=True)
class Row:
    """One quantized model; the Dice are means over the organs, on the scan that did not calibrate."""

    network: str
    kind: str
    """ "mixed" (bits by sensitivity, of several allocations the best on a part of the calibrating scan that calibrated
    none of them) or "uniform" (the same bits everywhere, or the product's default: the first and the last layer and the
    smallest ones get more)."""
    recipe: str
    bytes_on_disk: int
    effective_bits: float
    dsc_vs_fp32: float
    dsc_vs_reference: float


def run(
    *,
    data: Path,
    fold: int = 2,
    bits: Sequence[int] = (2, 3, 4),
    method: str = "permutation-comq",
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """Rows of `Row`: for each of `bits` two uniform models and the best mixed one that is not larger than either.

    Raises `UserError` for what is missing in `data`, and for an unknown fold.
    """
    if fold not in (1, 2):
        raise UserError(f"Unknown fold {fold}. Choose 1 or 2.")
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Reading the scans")
    (case,) = OrganCase.all(Path(data), (fold,))
    return [asdict(row) for row in rows_of(case, bits, Recipe(method=method), tracker)]


def rows_of(case: OrganCase, bits: Sequence[int], recipe: Recipe, tracker: Progress) -> list[Row]:
    """The rows of one network: what is chosen is chosen on two parts of the scan that calibrates."""
    batches, calibrating = case.batches(), case.batches(CALIBRATING)
    planned = plan(
        case.model,
        calibrating,
        recipe=recipe,
        bits=PLANNED_BITS,
        **tracker.span(0.02, 0.25).callbacks("Sensitivity"),
    )
    held_out = HeldOut(case.model, calibrating[::2], case.batches(CHECKING), recipe)
    rows: list[Row] = []
    for number, width in enumerate(bits):
        part = tracker.span(0.25 + 0.75 * number / len(bits), 0.25 + 0.75 * (number + 1) / len(bits))
        uniform = replace(recipe, weights=IntWeights(width))
        plain = replace(uniform, ends_bits=None, extra_bits=0.0)
        peers = [
            _measured(case, batches, "uniform", one, part.span(start, start + 0.2))
            for start, one in ((0.0, plain), (0.2, uniform))
        ]
        most = max(peer.bytes_on_disk for peer in peers)
        mixed = _mixed(case, batches, planned, held_out, recipe, most, part.span(0.4, 1.0))
        rows += [*peers, mixed]
    return rows


def _mixed(
    case: OrganCase,
    batches: list[CalibrationBatch],
    planned: Plan,
    held_out: HeldOut,
    recipe: Recipe,
    most_bytes: int,
    tracker: Progress,
) -> Row:
    """The best of at most so many bytes; calibrated on all inputs, its file may differ by a few bytes."""
    allowed = most_bytes
    for _ in range(SIZING):
        chosen = best_of_size(planned, held_out, allowed, tracker=tracker.span(0.0, 0.75))
        row = _measured(case, batches, "mixed", recipe_for(chosen.allocation, recipe), tracker.span(0.75, 1.0))
        if row.bytes_on_disk <= most_bytes:
            return row
        allowed -= row.bytes_on_disk - chosen.bytes_on_disk
    raise UserError("No mixed model is as small as the uniform one. Choose more bits.")


def _measured(case: OrganCase, batches: list[CalibrationBatch], kind: str, recipe: Recipe, tracker: Progress) -> Row:
    quantized = quantize(case.model, batches, recipe=recipe, **tracker.callbacks(f"W{recipe.weights.bits} {kind}"))
    size = size_of(quantized)
    found, reference = case.scores(quantized.model.network)
    effective = quantized.report.effective_bits
    return Row(case.model.name, kind, recipe.describe(), size, effective, found, reference)
