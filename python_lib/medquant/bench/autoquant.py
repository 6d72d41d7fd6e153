"""Mixed precision against the same bits everywhere, at equal size, on a scan that did not calibrate.

Network, scans and scores as in `medquant bench quality`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from medquant.bench.organ_case import CROPS, Crop, OrganCase
from medquant.errors import UserError
from medquant.mixed.best import SIZING, best_of_size, size_of
from medquant.mixed.families import Plan
from medquant.mixed.held_out import HeldOut
from medquant.mixed.plan import everywhere, plan, recipe_for
from medquant.models.base import CalibrationBatch
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

PLANNED_BITS = (2, 3, 4, 8)
CALIBRATED_ON, CHECKED_ON = 0, 1
"""The first slice of each half of the calibrating scan, which has every other slice: no voxel is in both. While the
best model is looked for, the one half calibrates and the other, left for right, checks. The rows are of models
calibrated on the whole scan, as in `medquant bench quality`.

Without the mirror the halves show the same places, and what is fitted there in deep layers, which have few places and
many weights, seems to cost next to nothing (the deepest at 2 bits: a thirtieth of the divergence on another scan). In
the mirror and in parts of the body it costs about as much as there. That was seen on the scan that tests, with fold 2;
fold 1 was measured afterwards."""
CALIBRATING = CROPS[:2]
PARTS: tuple[Crop, ...] = (((0.1, 0.9), (0.1, 0.9), (0.0, 0.5)), ((0.1, 0.9), (0.1, 0.9), (0.5, 1.0)))
"""The upper and the lower half of the body, nearer."""
MEASURING, CHECKING = (CROPS[0], *PARTS), (*CROPS[:4], *PARTS)
"""What measures the layers, and what checks a model."""
SLACK = 1.0005
"""Calibrated on half the scan, a file differs by some bytes from that of the whole."""


@dataclass(frozen=True)
class Row:
    """One quantized model; the Dice are means over the organs, on the scan that did not calibrate."""

    network: str
    kind: str
    """ "uniform": the same bits in every layer. "mixed": bits by sensitivity, of several allocations the best on slices
    of the calibrating scan that did not calibrate it. "default": what `medquant quantize` does without looking at
    layers, by a rule: first and last layer at 8 bits, and what switched-off channels save goes to the smallest. All
    three leave switched-off channels out."""
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
    """Rows of `Row`, the smallest first: for each of `bits` the uniform model and the default; and the best mixed
    models of at most the sizes of the uniform ones, and of sizes between them (`sizes_to_reach`).

    Raises `UserError` for what is missing in `data`, for an unknown fold, and for bits that leave nothing to mix.
    """
    if max(bits) <= min(PLANNED_BITS):
        raise UserError(f"No layer gets fewer than {min(PLANNED_BITS)} bits. Give more to compare with.")
    if fold not in (1, 2):
        raise UserError(f"Unknown fold {fold}. Choose 1 or 2.")
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Reading the scans")
    (case,) = OrganCase.all(Path(data), (fold,))
    return [asdict(row) for row in rows_of(case, bits, Recipe(method=method), tracker)]


def rows_of(case: OrganCase, bits: Sequence[int], recipe: Recipe, tracker: Progress) -> list[Row]:
    """The rows of one network: what is chosen is chosen on the scan that calibrates."""
    batches = case.batches()
    half = _half(case, CALIBRATED_ON, CALIBRATING)
    planned = plan(
        case.model,
        half,
        measured_on=_half(case, CHECKED_ON, MEASURING, mirrored=True),
        recipe=recipe,
        bits=PLANNED_BITS,
        **tracker.span(0.02, 0.25).callbacks("Sensitivity"),
    )
    folds = [HeldOut(case.model, half, _half(case, CHECKED_ON, CHECKING, mirrored=True), recipe)]
    peers, mixed = tracker.span(0.25, 0.45), tracker.span(0.45, 1.0)
    rows: list[Row] = []
    uniform: dict[int, tuple[Recipe, Row]] = {}
    for number, width in enumerate(widths := sorted(set(bits))):
        default = replace(recipe, weights=IntWeights(width))
        for place, (kind, one) in enumerate((("default", default), ("uniform", everywhere(recipe, width)))):
            part = peers.span((number + place / 2) / len(widths), (number + (place + 1) / 2) / len(widths))
            rows.append(_measured(case, batches, kind, one, part))
        uniform[width] = one, rows[-1]
    allowed = sizes_to_reach({width: row.bytes_on_disk for width, (_, row) in uniform.items()})
    for number, most in enumerate(allowed):
        part = mixed.span(number / len(allowed), (number + 1) / len(allowed))
        rows.append(_mixed(case, batches, planned, folds, recipe, most, list(uniform.values()), part))
    return sorted(rows, key=lambda row: row.bytes_on_disk)


def sizes_to_reach(sizes: Mapping[int, int]) -> list[int]:
    """Bytes that mixed models may have, from those of uniform ones by their bits: as many, and halfway between two.

    Not those of the fewest bits, where there is nothing to take from one layer for another.
    """
    known = [sizes[width] for width in sorted(sizes)]
    between = [(one + other) // 2 for one, other in pairwise(known)]
    return sorted(between + [size for width, size in sizes.items() if width > min(PLANNED_BITS)])


def beaten(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Mixed rows with a uniform one of the same network that is no larger and nearer to FP32's masks: none is hoped."""
    found = []
    for mixed in (row for row in rows if row["kind"] == "mixed"):
        peers = [one for one in rows if one["kind"] == "uniform" and one["network"] == mixed["network"]]
        smaller = [one for one in peers if one["bytes_on_disk"] <= mixed["bytes_on_disk"]]
        best = max(smaller, key=lambda one: one["dsc_vs_fp32"], default=mixed)
        if best["dsc_vs_fp32"] > mixed["dsc_vs_fp32"]:
            found.append((mixed, best))
    return found


def _half(case: OrganCase, first: int, crops: Sequence[Crop], *, mirrored: bool = False) -> list[CalibrationBatch]:
    return case.batches(crops, first=first, step=2, mirrored=mirrored)


def _mixed(
    case: OrganCase,
    batches: list[CalibrationBatch],
    planned: Plan,
    folds: Sequence[HeldOut],
    recipe: Recipe,
    most_bytes: int,
    measured: Sequence[tuple[Recipe, Row]],
    tracker: Progress,
) -> Row:
    """The best of at most so many bytes; where nothing is better than the same bits everywhere, that of `measured`."""

    def attempt(allowed: int) -> tuple[int, Row]:
        chosen = best_of_size(planned, folds, allowed, tracker=tracker.span(0.0, 0.9))
        wanted = recipe_for(chosen.allocation, recipe)
        known = next((replace(row, kind="mixed") for one, row in measured if one == wanted), None)
        row = known or _measured(case, batches, "mixed", wanted, tracker.span(0.9, 1.0))
        return chosen.bytes_on_disk, row

    return first_within(most_bytes, attempt)


def first_within(most_bytes: int, attempt: Callable[[int], tuple[int, Row]]) -> Row:
    """The first row of at most so many bytes, of models that are chosen where their files differ by some bytes.

    `attempt` gets the bytes that may be chosen from, and gives the size of what was chosen and its row. One that turns
    out too large is not chosen again. Raises `UserError` where none fits.
    """
    allowed = round(SLACK * most_bytes)
    for _ in range(SIZING):
        size, row = attempt(allowed)
        if row.bytes_on_disk <= most_bytes:
            return row
        allowed = size - (row.bytes_on_disk - most_bytes)
    raise UserError(f"No mixed model of at most {most_bytes} bytes was found. Compare with other --bits.")


def _measured(case: OrganCase, batches: list[CalibrationBatch], kind: str, recipe: Recipe, tracker: Progress) -> Row:
    quantized = quantize(case.model, batches, recipe=recipe, **tracker.callbacks(f"W{recipe.weights.bits} {kind}"))
    size = size_of(quantized)
    found, reference = case.scores(quantized.model.network)
    effective = quantized.report.effective_bits
    return Row(case.model.name, kind, recipe.describe(), size, effective, found, reference)
