"""Which layers break first, cell by cell, and how their numbers are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medquant.quantized_model import require_original
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.sensitivity.effects import SensitivityMap


def sensitivity(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """The effect of each layer of `model` rounded to each of `bits`, in each of `views`, on one piece of `volume`.

    `what` is rounded: "weights", "activations" or "both". `known` tells of other views that were measured before (see
    `map_of`): how far all of them rank the layers alike is in `agreement`.
    """
    from medquant.calibration_inputs import calibration_inputs
    from medquant.evaluation.histograms import layer_histograms
    from medquant.sensitivity.layers import sensitivity as run_sensitivity
    from medquant.sensitivity.trials import roundings_of

    model = require_original(work.warm.model(params["model"], work.part(0.0, 0.02)))
    roundings = roundings_of(params.get("bits", (2, 4, 8)), params.get("what", "weights"))
    volume, rest = work.warm.volume(work.folder, params["volume"]), work.part(0.05, 1.0)
    selection = selection_of({"slices": params.get("slices", 1)})
    batches, _ = calibration_inputs(model, volume, selection, work.part(0.02, 0.03))
    looking = work.part(0.03, 0.05)
    looked = layer_histograms(model, batches, progress=looking.callback, cancelled=looking.cancelled)
    work.partial(histograms=[one.to_dict() for one in looked])
    found = run_sensitivity(
        model,
        batches,
        roundings=roundings,
        views=params.get("views") or ("one-at-a-time",),
        recipe=recipe_of({"granularity": params.get("granularity"), "method": "rtn"}),
        partial=lambda cell: work.partial(cell=cell.to_dict()),
        progress=rest.callback,
        cancelled=rest.cancelled,
    )
    measured = {cell.view for cell in found.cells}
    before = [cell for known in params.get("known", ()) for cell in map_of(known).cells if cell.view not in measured]
    bits = {rounding.label: number for rounding, number in zip(roundings, params.get("bits", (2, 4, 8)), strict=True)}
    agreement = replace(found, cells=(*found.cells, *before)).rank_agreement()
    return {**found.to_dict(), "agreement": [{**row, "bits": bits[row["rounding"]]} for row in agreement]}


def map_of(told: dict[str, Any]) -> SensitivityMap:
    """A map that was measured before: `view`, `what`, `layers` (`name`, `kind`, `shape`, `share`) and `cells` (`layer`,
    `bits`, `effect`, `dsc_loss`)."""
    from medquant.sensitivity.effects import LayerEffect, SensitivityMap
    from medquant.sensitivity.trials import Rounding, roundings_of

    layers = {one["name"]: one for one in told["layers"]}

    def rounding(bits: int) -> Rounding:
        return roundings_of([bits], told["what"])[0]

    def cell(one: dict[str, Any]) -> LayerEffect:
        about = layers[one["layer"]]
        effect = float("inf") if one["effect"] is None else one["effect"]
        return LayerEffect(
            one["layer"],
            about["kind"],
            tuple(about["shape"]),
            about["share"],
            rounding(one["bits"]),
            told["view"],
            effect,
            dsc_loss=one.get("dsc_loss"),
        )

    cells: Sequence[LayerEffect] = [cell(one) for one in told["cells"] if one["layer"] in layers]
    bits = sorted({one["bits"] for one in told["cells"]})
    return SensitivityMap(tuple(layers), tuple(rounding(number) for number in bits), tuple(cells))
