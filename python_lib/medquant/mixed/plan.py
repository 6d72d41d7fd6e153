"""What bits are worth in each layer of a model, measured on calibration inputs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from medquant.mixed.chain import Allocation, Option
from medquant.mixed.families import Plan
from medquant.models.base import CalibrationBatch, Model
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.recipe import Recipe
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding

BITS = (2, 3, 4, 8)
MEASURED_ON = 1
"""Inputs on which the layers' effects are measured, at most: each costs a pass for every layer and number of bits."""


def plan(
    model: Model,
    batches: Sequence[CalibrationBatch],
    *,
    measured_on: Sequence[CalibrationBatch] | None = None,
    recipe: Recipe | None = None,
    bits: Sequence[int] = BITS,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Plan:
    """Measure what bits are worth in each layer.

    `batches` calibrate and `measured_on` measures; if that is not given, every other one of `batches` calibrates and
    the others measure. A solver fits the places that it has seen, most of all in deep layers, which have few and many
    weights: what measures should show others. Each layer is rounded alone to each of `bits` by the recipe's method; its
    effect is the divergence of the classes' probabilities from FP32's, which ranks layers like the masks do and, unlike
    Dice, still tells small effects apart. Which channels a layer may leave out depends on how noisy the model is as a
    whole, so sizes are told for each least number of bits; effects are those of the noisiest, as what is left out is a
    small part of the noise.
    """
    recipe = replace(recipe or Recipe(), activations=None, float_inputs=())
    widths = sorted(set(bits))
    if measured_on is None:
        batches, measured_on = batches[::2], batches[1::2][:MEASURED_ON] or None
    tracker = Progress(progress, cancelled)
    measure = partial(sensitivity, model, batches, recipe=recipe, ignore=ignore, max_memory_mb=max_memory_mb)
    least, others = widths[0], widths[1:]
    alone = measure(
        roundings=[Rounding(width, nominal=least) for width in widths],
        measured_on=measured_on,
        **tracker.span(0.0, 0.7 if others else 1.0).callbacks(),
    )
    effects = {(cell.layer, cell.rounding.weights): cell.change.divergence for cell in alone.cells}
    cells = list(alone.cells)
    if others:
        sizing = [Rounding(width, nominal=n) for n in others for width in widths if width >= n]
        cells += measure(roundings=sizing, views=("proxy",), **tracker.span(0.7, 1.0).callbacks()).cells
    options: dict[int, dict[str, list[Option]]] = {n: {name: [] for name in alone.layers} for n in widths}
    for cell in cells:
        width = cell.rounding.weights
        option = Option(width, cell.stored_bits, effects[cell.layer, width])
        options[cell.rounding.nominal][cell.layer].append(option)
    return Plan(options)


def recipe_for(allocation: Allocation, recipe: Recipe | None = None) -> Recipe:
    """The recipe that gives each layer its bits, but for layers that `recipe` has an override for."""
    recipe = recipe or Recipe()
    chosen = allocation.of()
    usual = max(sorted(set(chosen.values())), key=list(chosen.values()).count)
    base = everywhere(recipe, usual, allocation.nominal)
    # Layers of the usual number of bits need no names, which take room in the file.
    named = {glob.escape(name): base.grid(bits) for name, bits in chosen.items() if bits != usual}
    asked = {pattern: grid for pattern, grid in recipe.overrides.items() if pattern != "*"}
    return replace(base, overrides={**base.overrides, **named, **asked})


def everywhere(recipe: Recipe, bits: int, nominal: int | None = None) -> Recipe:
    """The same bits in every layer, and no rule that gives one more; `nominal` is that of `Allocation`.

    Whether channels are left out stays as in `recipe`.
    """
    base = replace(recipe, weights=replace(recipe.weights, bits=nominal or bits), ends_bits=None, extra_bits=0.0)
    return replace(base, overrides={"*": base.grid(bits)})
