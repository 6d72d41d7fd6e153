"""Which layers break first, cell by cell, and how their numbers are spread."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medquant.quantized_model import require_original
from medquant.worker.arrays import segmentation_of
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.sensitivity.effects import SensitivityMap


def sensitivity(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """The effect of each layer of `model` rounded to each of `bits`, in each of `views`, on one piece of `volume`.

    `what` is rounded: "weights", "activations" or "both". With a `reference` the masks are looked at where it shows
    structures, and held against it too. `known` tells of other views that were measured before (see `map_of`): how far
    all of them rank the layers alike is in `agreement`.
    """
    from medquant.evaluation.histograms import layer_histograms
    from medquant.evaluation.sensitivity_inputs import sensitivity_inputs
    from medquant.sensitivity.layers import sensitivity as run_sensitivity
    from medquant.sensitivity.trials import roundings_of

    model = require_original(work.warm.model(params["model"], work.part(0.0, 0.02)))
    roundings = roundings_of(params.get("bits", (2, 4, 8)), params.get("what", "weights"))
    volume, rest = work.warm.volume(work.folder, params["volume"]), work.part(0.05, 1.0)
    selection = selection_of({"slices": params.get("slices", 1)})
    recipe = recipe_of({"granularity": params.get("granularity"), "method": "rtn"})
    reference = segmentation_of(work.folder, params["reference"], volume) if params.get("reference") else None
    preparing, looking = work.part(0.02, 0.03), work.part(0.03, 0.05)
    inputs = sensitivity_inputs(model, volume, selection, roundings, recipe, reference=reference, tracker=preparing)
    looked = layer_histograms(model, inputs.calibrating, progress=looking.callback, cancelled=looking.cancelled)
    work.partial(histograms=[one.to_dict() for one in looked])
    found = run_sensitivity(
        model,
        inputs.calibrating,
        roundings=roundings,
        views=params.get("views") or ("one-at-a-time",),
        recipe=recipe,
        measured_on=inputs.measured_on,
        references=inputs.references,
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
    `bits`, `effect`, `dsc_loss`, `reference_loss`); where they are known `types` (like cells, with their `share`),
    `fp32_vs_reference`, and `others`: maps of other views of the same rounding."""
    from medquant.sensitivity.effects import LayerEffect, SensitivityMap
    from medquant.sensitivity.trials import Rounding, roundings_of

    layers = {one["name"]: one for one in told["layers"]}

    def rounding(bits: int) -> Rounding:
        return roundings_of([bits], told["what"])[0]

    def cell(one: dict[str, Any], about: dict[str, Any]) -> LayerEffect:
        return LayerEffect(
            one["layer"],
            about["kind"],
            tuple(about["shape"]),
            about["share"],
            rounding(one["bits"]),
            told["view"],
            float("inf") if one["effect"] is None else one["effect"],
            dsc_loss=one.get("dsc_loss"),
            reference_loss=one.get("reference_loss"),
        )

    cells = [cell(one, layers[one["layer"]]) for one in told["cells"] if one["layer"] in layers]
    cells += [one for other in told.get("others", ()) for one in map_of(other).cells]
    types = [cell(one, {**one, "kind": one["layer"], "shape": ()}) for one in told.get("types", ())]
    roundings = tuple(rounding(number) for number in sorted({one["bits"] for one in told["cells"]}))
    against = told.get("fp32_vs_reference")
    return SensitivityMap(tuple(layers), roundings, tuple(cells), tuple(types), fp32_vs_reference=against)
