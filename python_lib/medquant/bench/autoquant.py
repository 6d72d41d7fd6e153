"""Mixed precision against the same bits everywhere, at equal size, on a scan that did not calibrate.

Network, scans and scores as in `medquant bench quality`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medquant.bench.organ_case import OrganCase
from medquant.errors import UserError
from medquant.mixed.chain import Allocation
from medquant.mixed.plan import plan, recipe_for
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

PLANNED_BITS = (2, 3, 4, 8)
FITTING = 3
"""Times that an allocation is made smaller until its file fits."""


@dataclass(frozen=True)
class Row:
    """One quantized model; the Dice are means over the organs, on the scan that did not calibrate."""

    network: str
    kind: str
    """ "mixed" (bits by sensitivity) or "uniform" (the same bits everywhere, or the product's default: the first and
    the last layer and the smallest ones get more)."""
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
    recipe = Recipe(method=method)
    batches = case.batches()
    order = plan(
        case.model,
        batches,
        recipe=recipe,
        bits=PLANNED_BITS,
        **tracker.span(0.02, 0.2).callbacks("Sensitivity"),
    )
    rows: list[Row] = []
    for number, width in enumerate(bits):
        part = tracker.span(0.2 + 0.8 * number / len(bits), 0.2 + 0.8 * (number + 1) / len(bits))
        uniform = replace(recipe, weights=IntWeights(width))
        plain = replace(uniform, ends_bits=None, extra_bits=0.0)
        rows += [
            _measured(case, batches, "uniform", one, part.span(start, start + 0.25))
            for start, one in ((0.0, plain), (0.25, uniform))
        ]
        rows.append(_fitting(case, batches, order, recipe, rows[-2:], part.span(0.5, 1.0)))
    return [asdict(row) for row in rows]


def _fitting(
    case: OrganCase, batches: list, order: list[Allocation], recipe: Recipe, peers: list[Row], tracker: Progress
) -> Row:
    """The largest allocation whose file is no larger than those of its peers."""
    most = max(peer.bytes_on_disk for peer in peers)
    weights = sum(layer.weight.numel() for layer in _layers(case))
    allowed = max(peer.effective_bits for peer in peers) * weights
    for attempt in range(FITTING):
        fitting = [one for one in order if one.stored_bits <= allowed]
        if not fitting:
            break
        part = tracker.span(attempt / FITTING, (attempt + 1) / FITTING)
        row = _measured(case, batches, "mixed", recipe_for(fitting[-1], recipe), part)
        if row.bytes_on_disk <= most:
            return row
        allowed = fitting[-1].stored_bits - 1 - 8 * (row.bytes_on_disk - most)
    raise UserError("No mixed model is as small as the uniform one. Choose more bits.")


def _measured(case: OrganCase, batches: list, kind: str, recipe: Recipe, tracker: Progress) -> Row:
    quantized = quantize(case.model, batches, recipe=recipe, **tracker.callbacks(f"W{recipe.weights.bits} {kind}"))
    with tempfile.TemporaryDirectory() as folder:
        size = quantized.save(Path(folder) / "model.mq.safetensors")
    found, reference = case.scores(quantized.model.network)
    effective = quantized.report.effective_bits
    return Row(case.model.name, kind, recipe.describe(), size, effective, found, reference)


def _layers(case: OrganCase) -> list[Any]:
    from medquant.matrices import is_quantizable

    return [module for module in case.model.network.modules() if is_quantizable(module)]
