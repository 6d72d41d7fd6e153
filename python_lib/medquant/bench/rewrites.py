"""What rewrites that keep the function are worth on a real network, on a scan that did not calibrate.

Networks and scans as in `medquant bench quality`; the rewrites are those of `medquant rewrites`. MedQuanBench (Tables 4
and 12) rewrites the most sensitive layer of a network at W4A4, per channel and token: with a granularity this rounds as
the paper does, without one by the product's settings. One figure on one scan proves little, so each rewrite is
measured organ by organ, on two networks, at several bits, and beside a row that is rewritten in nothing but calibrated
on another part of the scan: what does not differ more than that is a tie.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from medquant.bench.allconvunet import ORGANS
from medquant.bench.organ_case import OrganCase, dice, logits_of
from medquant.errors import UserError
from medquant.evaluation.rewrite_study import AS_LARGE, LOW_RANK, MOST_EXTRA_BITS, NONE, recipe_of_study, variants_of
from medquant.layers import decoded_once
from medquant.models.base import CalibrationBatch
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize
from medquant.quantized_model import QuantizationReport
from medquant.recipe import Recipe

AGAIN = "none, calibrated elsewhere"
"""Nothing is rewritten, and another part of the calibration scan gives the ranges of the inputs."""
LEAST = 0.01
"""Of Dice: less matters to nobody."""
ROUNDINGS = ("W8A8", "W4A4", "W3")
ONE_LAYER_UP_TO = 6
"""Bits of weights and inputs up to which the worst layer is rewritten alone as well."""


@dataclass(frozen=True)
class Row:
    """One quantized model; Dice are means over the organs, on the scan that did not calibrate."""

    network: str
    rounding: str
    """ "W4A4"; "W3": inputs in floating point."""
    rewrite: str
    layer: str
    """The layer that was rewritten, the one whose output rounding harms most; empty: all layers. All are rounded."""
    effective_bits: float
    dsc_vs_fp32: float
    dsc_vs_reference: float
    dsc_vs_fp32_by_organ: dict[str, float]
    gain: float
    """Of Dice against FP32, over the same rounding without a rewrite: mean over the organs."""
    gain_error: float
    """Standard error of that mean."""
    seconds: float


def run(
    *,
    data: Path,
    folds: Sequence[int] = (2, 1),
    roundings: Sequence[str] = ROUNDINGS,
    method: str = "rtn",
    granularity: str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[Row]:
    """One network for each of `folds`; `method` and `granularity` are those of `recipe_of`.

    Raises `UserError` for what is missing in `data`, and for an unknown choice.
    """
    plan = {label: recipe_of(label, method, granularity) for label in roundings}
    for fold in folds:
        if fold not in (1, 2):
            raise UserError(f"Unknown fold {fold}. Choose 1 or 2.")
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Reading the scans")
    rows: list[Row] = []
    for number, case in enumerate(OrganCase.all(Path(data), folds)):
        for place, (label, recipe) in enumerate(plan.items()):
            start = (number + place / len(plan)) / len(folds)
            part = tracker.span(start, start + 1 / len(plan) / len(folds))
            rows += _rows(case, label, recipe, part)
    tracker.report(1.0, "Compared")
    return rows


def recipe_of(label: str, method: str = "rtn", granularity: str | None = None) -> Recipe:
    """Of "W4A4" or "W3", without factors of its own; `granularity` is that of `recipe_of_study`.

    Raises `UserError` for another word.
    """
    found = re.fullmatch(r"W([2-8])(?:A([2-8]))?", label.strip().upper())
    if found is None:
        raise UserError(
            f"Unknown rounding {label!r}. Give the bits of weights and of inputs: W4A4, or W3 for weights alone."
        )
    weights, inputs = found.groups()
    return recipe_of_study(int(weights), inputs and int(inputs), method, granularity)


def parts_of(batch: CalibrationBatch) -> list[CalibrationBatch]:
    """Two parts of an input, two thirds of its side each: the middle, and one nearer the feet."""
    cube = batch.inputs[0]
    side = cube.shape[-1]
    low, length = side // 6, 2 * side // 3
    across = slice(low, low + length)
    return [CalibrationBatch((cube[..., across, across, k : k + length],)) for k in (low, side - length)]


def _rows(case: OrganCase, label: str, recipe: Recipe, tracker: Progress) -> list[Row]:
    """Every rewrite of all layers, and of the worst layer where bits are few."""
    variants = variants_of(recipe)
    batches = parts_of(case.batches()[0])
    few = recipe.activations is not None and max(recipe.weights.bits, recipe.activations.bits) <= ONE_LAYER_UP_TO
    count = len(variants) + 2 + few * len(variants)
    rows: list[Row] = []

    def measured(rewrite: str, chosen: Recipe, layer: str = "", calibrating: int = 0) -> QuantizationReport:
        part = tracker.span(len(rows) / count, (len(rows) + 1) / count)
        began = time.perf_counter()
        told = part.callbacks(f"{case.model.name}, {label}, {rewrite}")
        made = quantize(case.model, batches[calibrating : calibrating + 1], recipe=chosen, **told)
        with decoded_once(made.model.network):
            found = logits_of(made.model.network, case.cube).argmax(1)[0]
        by_organ = {ORGANS[organ]: dice(found, case.full, organ) for organ in case.organs}
        plain = rows[0].dsc_vs_fp32_by_organ if rows else by_organ
        gains = np.array([by_organ[organ] - plain[organ] for organ in by_organ])
        error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else 0.0
        rows.append(
            Row(
                network=case.model.name,
                rounding=label,
                rewrite=rewrite,
                layer=layer,
                effective_bits=made.report.effective_bits,
                dsc_vs_fp32=case.mean_dice(found, case.full),
                dsc_vs_reference=case.mean_dice(found, case.reference),
                dsc_vs_fp32_by_organ=by_organ,
                gain=float(gains.mean()),
                gain_error=error,
                seconds=time.perf_counter() - began,
            )
        )
        return made.report

    plain, *others = variants.items()
    report = measured(NONE, plain[1][0])
    if recipe.activations is not None:
        measured(AGAIN, plain[1][0], calibrating=1)
    bits = {}
    for rewrite, (base, wanted) in others:
        bits[rewrite] = measured(rewrite, replace(base, rewrites={"*": wanted})).effective_bits
    more = min(recipe.extra_bits + max(0.0, bits[LOW_RANK] - report.effective_bits), MOST_EXTRA_BITS)
    measured(AS_LARGE, replace(recipe, extra_bits=more))
    if few:
        worst = max(report.layers, key=lambda layer: layer.relative_error).name
        for rewrite, (base, wanted) in others:
            if wanted is not None:
                measured(rewrite, replace(base, rewrites={glob.escape(worst): wanted}), worst)
    return rows


@dataclass(frozen=True)
class Gain:
    """One rewrite at one rounding, over the networks."""

    rounding: str
    rewrite: str
    one_layer: bool
    gain: float
    """Mean over networks and organs of the Dice against FP32, over the same without a rewrite."""
    gain_error: float
    """Standard error over them."""
    tie: float
    """What calibrating elsewhere changes, the largest of the networks; 0 where that changes nothing."""

    @property
    def verdict(self) -> str:
        """ "helps", "harms" or "tie".

        Other than a tie is beyond two standard errors, what calibrating elsewhere changes, and `LEAST`.
        """
        if abs(self.gain) <= max(2 * self.gain_error, self.tie, LEAST):
            return "tie"
        return "helps" if self.gain > 0 else "harms"


def gains(rows: Sequence[Row]) -> list[Gain]:
    """Of every rewrite, in the order of the rows."""
    plain = {(row.network, row.rounding): row for row in rows if row.rewrite == NONE}
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for row in rows:
        if row.rewrite != NONE:
            groups.setdefault((row.rounding, row.rewrite, bool(row.layer)), []).append(row)
    found = []
    for (rounding, rewrite, one_layer), members in groups.items():
        each = np.array(
            [
                value - plain[row.network, rounding].dsc_vs_fp32_by_organ[organ]
                for row in members
                for organ, value in row.dsc_vs_fp32_by_organ.items()
            ]
        )
        error = float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else 0.0
        again = groups.get((rounding, AGAIN, False), [])
        tie = max((abs(row.gain) for row in again), default=0.0)
        found.append(Gain(rounding, rewrite, one_layer, float(each.mean()), error, tie))
    return found


def to_dicts(rows: Sequence[Row]) -> list[dict]:
    """Plain data for JSON."""
    return [asdict(row) for row in rows]
