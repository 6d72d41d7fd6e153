"""The smallest model that is still safe on a scan."""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.worker.methods.quantizing import saved
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.mixed.search import SafeModel

FLOAT = 32
LEAST_PIECES = 3
"""One of them checks."""


def find_safe(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """The smallest model of `model` whose masks stay within `tolerance` ({"dsc", "volume_change"}) on slices of
    `volume` that did not calibrate it; `handle` names it as one of `quantize`, empty where none is safe.

    Method and granularity are those of the request; layers that `overrides` leaves in floating point stay so.
    Activations stay in floating point: what is chosen is what the file holds.
    """
    from medquant.deploy.quantized_models import place_of, shrink
    from medquant.mixed.plan import BITS
    from medquant.mixed.search import Tolerance, smallest_safe_model

    model = work.warm.model(params["model"], work.part(0.0, 0.02))
    if hasattr(model, "recipe"):
        raise UserError(f"{model.name} is quantized already. Choose the model that it was made from.")
    volume, rest = work.warm.volume(work.folder, params["volume"]), work.part(0.02, 1.0)
    selection = selection_of(params)
    selection = replace(selection, count=max(LEAST_PIECES, selection.count))
    kept = {name: bits for name, bits in (params.get("overrides") or {}).items() if bits == FLOAT}
    found = smallest_safe_model(
        model,
        volume,
        tolerance=Tolerance(**params["tolerance"]),
        recipe=recipe_of({**params, "activations": 0, "overrides": kept}),
        bits=tuple(params.get("widths") or BITS),
        selection=selection,
        ignore=tuple(map(glob.escape, kept)),
        tried=lambda one: work.partial(tried=one.to_dict()),
        progress=rest.callback,
        cancelled=rest.cancelled,
    )
    rest.check()
    report = found.quantized.report
    told = {
        "safe": found.safe,
        "found": _found(found),
        "text": f"{wording.bits(report.effective_bits)} bits/weight",
        "tried": [one.to_dict() for one in found.tried],
    }
    if not found.safe:
        return {**told, "handle": ""}
    recipe = found.quantized.recipe
    path, made = saved(found.quantized, place_of(model, recipe, volume, selection), work)
    shrink(path)
    size = wording.size(made.report.bytes_on_disk)
    return {
        **told,
        "handle": str(path),
        "name": made.name,
        "bits": recipe.nominal_bits or 0,
        "bytes": made.report.bytes_on_disk,
        "size": size,
        "text": f"{size}, {told['text']} ({wording.size(4 * report.parameters)} in FP32)",
        "pieces": report.calibration_inputs,
        "precise": _precise(found),
        "report": made.report.to_dict(),
    }


def _found(found: SafeModel) -> str:
    """What was reached and on how much of the scan, in two lines."""
    change = found.change
    counted = Counter(found.allocation.of().values())
    layers = ", ".join(f"{counted[bits]} of {bits} bits" for bits in sorted(counted))
    slices = f"{found.held_out} held-out slice" + ("s" if found.held_out > 1 else "")
    dice = f"Mean Dice {wording.score(change.dsc)} on {slices}, volumes within {change.volume_change:.1%}"
    return f"{dice}\nLayers: {layers}"


def _precise(found: SafeModel) -> list[str]:
    """The layers with the most bits, where others have fewer."""
    chosen = found.allocation.of()
    most = max(chosen.values())
    return [name for name, bits in chosen.items() if bits == most] if most > min(chosen.values()) else []
