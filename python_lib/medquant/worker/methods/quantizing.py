"""A smaller model from a model and slices of the scan."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.worker import measured
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work


def quantize(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Quantize `model` with slices of `volume`; `handle` names the result, which outlives this process."""
    from medquant.artifact import SUFFIX
    from medquant.quantize import quantize as run_quantize

    recipe = recipe_of(params)
    model = work.warm.model(params["model"], work.part(0.0, 0.02))
    if hasattr(model, "recipe"):
        raise UserError(f"{model.name} is quantized already. Choose the model that it was made from.")
    volume = work.warm.volume(work.folder, params["volume"])
    rest = work.part(0.02, 1.0)
    made = run_quantize(
        model,
        volume,
        recipe=recipe,
        selection=selection_of(params),
        progress=rest.callback,
        cancelled=rest.cancelled,
    )
    rest.check()
    path = work.folder / f"w{recipe.weights.bits}-{secrets.token_hex(6)}{SUFFIX}"
    size = made.save(path)
    made = replace(made, report=replace(made.report, bytes_on_disk=size))
    work.warm.put(str(path), made)
    measured.remember(params["model"], recipe.describe(), bytes=size)
    report = made.report
    bits = f"{wording.bits(report.effective_bits)} bits/weight"
    return {
        "handle": str(path),
        "name": made.name,
        "bits": recipe.weights.bits,
        "recipe": recipe.describe(),
        "bytes": size,
        "text": f"{wording.size(size)}, {bits}, calibrated on {_inputs(report.calibration_inputs)}",
        "report": report.to_dict(),
    }


def _inputs(count: int) -> str:
    return "1 piece of this scan" if count == 1 else f"{count} pieces of this scan"
