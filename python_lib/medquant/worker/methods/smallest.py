"""The smallest model that is still safe on a scan."""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medquant.evaluation import wording
from medquant.evaluation.verdict import VOLUME_PERCENT
from medquant.quantized_model import require_original
from medquant.worker.methods.quantizing import saved
from medquant.worker.methods.segmenting import prompt_of
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.mixed.search import SafeModel, Tolerance
    from medquant.mixed.verification import Kept
    from medquant.sensitivity.change import Change

FLOAT = 32
CLEARLY = 0.02
"""A single structure's Dice so far below the mean that was asked is a finding of its own."""
LEAST_PIECES = 3
"""One of them checks."""


def find_safe(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """The smallest model of `model` whose masks stay within `tolerance` ({"dsc", "volume_change"}) on a part of
    `volume` that did not calibrate it; `handle` names it as one of `quantize`, empty where none is safe.

    `boxes` and `plane` as in `segment`: what models that take boxes are checked with; without any they are random.
    Method and granularity are those of the request; layers that `overrides` leaves in floating point stay so.
    Activations stay in floating point: what is chosen is what the file holds.
    """
    from medquant.deploy.quantized_models import place_of, shrink
    from medquant.mixed.plan import BITS
    from medquant.mixed.search import Tolerance, smallest_safe_model

    model = require_original(work.warm.model(params["model"], work.part(0.0, 0.02)))
    volume, rest = work.warm.volume(work.folder, params["volume"]), work.part(0.02, 1.0)
    selection = selection_of(params)
    selection = replace(selection, count=max(LEAST_PIECES, selection.count))
    boxes = params.get("boxes") if model.takes_boxes else None
    prompt = prompt_of(boxes or (), volume, params.get("plane"), "box")
    kept = {name: bits for name, bits in (params.get("overrides") or {}).items() if bits == FLOAT}
    found = smallest_safe_model(
        model,
        volume,
        tolerance=Tolerance(**params["tolerance"]),
        recipe=recipe_of({**params, "activations": 0, "overrides": kept}),
        bits=tuple(params.get("widths") or BITS),
        selection=selection,
        ignore=tuple(map(glob.escape, kept)),
        prompt=prompt,
        tried=lambda one: work.partial(tried=one.to_dict()),
        progress=rest.callback,
        cancelled=rest.cancelled,
    )
    rest.check()
    report = found.quantized.report
    told = {
        "safe": found.safe,
        "found": _found(found),
        "uneven": is_uneven(found.change, found.tolerance),
        "text": f"{wording.bits(report.effective_bits)} bits/weight",
        "tried": [one.to_dict() for one in found.tried],
    }
    if not found.safe:
        return {**told, "handle": ""}
    recipe = found.quantized.recipe
    path, made = saved(found.quantized, place_of(model, recipe, volume, selection, prompt), work)
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
    """What was reached, on how much of the scan and how fast, in three lines."""
    change, checked = found.change, found.checked
    counted = Counter(found.allocation.of().values())
    layers = ", ".join(f"{counted[bits]} of {bits} bits" for bits in sorted(counted))
    mean, worst = wording.score(change.dsc), wording.score(change.worst_dsc)
    lowest = f" (lowest {worst})" if worst != mean else ""
    seconds, fp32 = wording.seconds(checked.seconds), wording.seconds(checked.seconds_fp32)
    simulated = "; simulated" if checked.simulated else ""
    return (
        f"Mean Dice {mean}{lowest} on {checked.describe()}, volumes within {change.volume_change:.1%}\n"
        f"Segments them in {seconds} (FP32 {fp32}{simulated}), found in {wording.seconds(found.seconds)}\n"
        f"Layers: {layers}"
    )


def is_uneven(change: Change | Kept, tolerance: Tolerance) -> bool:
    """Whether what was not asked is clearly worse than what was: a structure's Dice than the mean that was asked, or a
    volume than what passes for a small loss."""
    low = change.worst_dsc < tolerance.dsc - CLEARLY
    return bool(low or 100 * change.volume_change > VOLUME_PERCENT[1])


def _precise(found: SafeModel) -> list[str]:
    """The layers with the most bits, where others have fewer."""
    chosen = found.allocation.of()
    most = max(chosen.values())
    return [name for name, bits in chosen.items() if bits == most] if most > min(chosen.values()) else []
