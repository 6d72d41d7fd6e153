"""A smaller model from a model and slices of the scan."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.quantized_model import require_original
from medquant.worker import measured
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.progress import Progress
    from medquant.quantized_model import QuantizedModel


def quantize(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Quantize `model` with slices of `volume`; `handle` names the result, a file that is kept for the user.

    What was made before from the same model, recipe and slices is not made again, unless `again` says so.
    """
    from medquant.deploy.quantized_models import is_kept, place_of, shrink
    from medquant.quantize import quantize as run_quantize

    recipe = recipe_of(params)
    model = require_original(work.warm.model(params["model"], work.part(0.0, 0.02)))
    volume = work.warm.volume(work.folder, params["volume"])
    rest, selection = work.part(0.02, 1.0), selection_of(params)
    path = place_of(model, recipe, volume, selection)
    made = _found(path, work, rest) if not params.get("again") and is_kept(path) else None
    kept = made is not None
    if made is None:
        made = run_quantize(
            model, volume, recipe=recipe, selection=selection, progress=rest.callback, cancelled=rest.cancelled
        )
        rest.check()
        path, made = saved(made, path, work)
        shrink(path)
    report, size = made.report, made.report.bytes_on_disk
    measured.remember(params["model"], recipe.describe(), bytes=size)
    bits = f"{wording.bits(report.effective_bits)} bits/weight"
    return {
        "handle": str(path),
        "name": made.name,
        "bits": recipe.weights.bits,
        "recipe": recipe.describe(),
        "bytes": size,
        "kept": kept,
        "text": f"{wording.size(size)}, {bits}",
        "pieces": report.calibration_inputs,
        "report": report.to_dict(),
    }


def _found(place: Path, work: Work, progress: Progress) -> QuantizedModel | None:
    """The model that is kept there; None where it is damaged."""
    try:
        return work.warm.model(str(place), progress)
    except UserError:
        return None


def saved(made: QuantizedModel, place: Path, work: Work) -> tuple[Path, QuantizedModel]:
    """Write a model to its place or, where that cannot be written, into the folder of the exchange."""
    try:
        size = made.save(place)
    except UserError:
        place = work.folder / f"{secrets.token_hex(6)}-{place.name}"
        size = made.save(place)
    made = replace(made, report=replace(made.report, bytes_on_disk=size))
    work.warm.put(str(place), made)
    return place, made
