"""Which layers break first, cell by cell."""

from __future__ import annotations

from typing import Any

from medquant.errors import UserError
from medquant.worker.recipes import recipe_of, selection_of
from medquant.worker.work import Work


def sensitivity(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """The effect on the output of each layer of `model` quantized alone to each of `bits`, on one piece of `volume`."""
    from medquant.sensitivity.layers import sensitivity as run_sensitivity
    from medquant.sensitivity.trials import Rounding

    model = work.warm.model(params["model"], work.part(0.0, 0.02))
    if hasattr(model, "recipe"):
        raise UserError(f"{model.name} is quantized already. Choose the model that it was made from.")
    volume, rest = work.warm.volume(work.folder, params["volume"]), work.part(0.02, 1.0)
    found = run_sensitivity(
        model,
        volume,
        roundings=[Rounding(bits) for bits in params.get("bits", (2, 4, 8))],
        recipe=recipe_of({"granularity": params.get("granularity"), "method": "rtn"}),
        selection=selection_of({"slices": params.get("slices", 1)}),
        partial=lambda cell: work.partial(cell=cell.to_dict()),
        progress=rest.callback,
        cancelled=rest.cancelled,
    )
    return found.to_dict()
