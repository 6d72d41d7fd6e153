"""Which layers' inputs are better left in floating point where activations are integers.

What rounding an input costs and what the layer's arithmetic takes are far apart: layers of few channels, those at the
beginning above all, do much of the harm and little of the work. Their inputs stay as they are.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.matrices import is_quantizable
from medquant.mixed.plan import MEASURED_ON
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.recipe import Recipe
from medquant.rewrites.settings import plain_name
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding


def require_share(recipe: Recipe, share: float) -> None:
    """Raise `UserError` for a share that is not between 0 and 1, and a recipe for which no inputs can be chosen."""
    if not 0 < share < 1:
        raise UserError(f"The part left in floating point lies between 0 and 1, not at {share:g}. Choose 0.15.")
    if recipe.activations is None:
        raise UserError("All inputs are in floating point already. Give bits of activations as well.")
    if recipe.float_inputs:
        raise UserError(
            "The recipe names inputs in floating point already. Leave them out, or do not have them chosen."
        )
    if recipe.redesign is not None:
        raise UserError(
            "A redesigned network has other arithmetic than the one that a part is taken of. Leave out the redesign, "
            "or name the inputs in the recipe."
        )


def with_float_inputs(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    recipe: Recipe,
    share: float,
    selection: CalibrationSelection | None = None,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Recipe:
    """The recipe with the inputs in floating point whose rounding costs most for the arithmetic that it saves.

    Each layer's input is rounded alone, with the network's weights as they are; every other input tells the
    ranges, the first of the others measures. The squared errors of the output add up, so the layers with the most of it
    for each multiplication are chosen until a `share` (0 to 1) of the network's multiplications is reached. Raises
    `UserError` as `require_share` does, and where there is nothing to calibrate with.
    """
    require_share(recipe, share)
    tracker = Progress(progress, cancelled)
    batches, _ = calibration_inputs(model, calibration, selection or CalibrationSelection(), tracker)
    found = sensitivity(
        model,
        batches[::2],
        measured_on=batches[1::2][:MEASURED_ON] or None,
        roundings=[Rounding(None, recipe.activations.bits)],
        recipe=recipe,
        ignore=ignore,
        max_memory_mb=max_memory_mb,
        **tracker.span(0.05, 1.0).callbacks("Inputs that matter"),
    )
    work = multiplications(model, batches[0])
    squared = {plain_name(cell.layer): cell.change.error**2 for cell in found.cells}
    chosen = most_for_the_work(squared, work, share * sum(work.values()))
    return replace(recipe, float_inputs=tuple(map(glob.escape, chosen)))


def most_for_the_work(effects: dict[str, float], work: dict[str, int], most: float) -> list[str]:
    """The layers, in the order of the network, with the largest effect for their work, of `most` work together.

    What was not seen to work is not chosen.
    """
    chosen: set[str] = set()
    left = most
    for name in sorted((name for name in effects if work.get(name)), key=lambda one: -effects[one] / work[one]):
        if work[name] <= left and effects[name] > 0:
            chosen.add(name)
            left -= work[name]
    return [name for name in effects if name in chosen]


def multiplications(model: Model, batch: CalibrationBatch) -> dict[str, int]:
    """Of each linear or convolution layer in one pass of the network, as PyTorch counts them."""
    network = model.network
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.forward_for_calibration(network, *batch.inputs)
    counts, root = counter.get_flop_counts(), type(network).__name__
    layers = [name for name, module in network.named_modules() if is_quantizable(module)]
    return {name: sum(counts.get(f"{root}.{name}", {}).values()) // 2 for name in layers}
