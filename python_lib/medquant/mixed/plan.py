"""What bits are worth in each layer of a model, measured on calibration inputs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace

from medquant.mixed.chain import Allocation, Option
from medquant.mixed.families import Plan
from medquant.models.base import CalibrationBatch, Model
from medquant.progress import CancelCheck, ProgressCallback
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
    recipe: Recipe | None = None,
    bits: Sequence[int] = BITS,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Plan:
    """Measure what bits are worth in each layer.

    Every other one of `batches` calibrates, the others measure. Each layer is rounded alone to each of `bits` by the
    recipe's method; its effect is the divergence of the classes' probabilities from FP32's, which ranks layers like the
    masks do and, unlike Dice, still tells small effects apart. Which channels a layer may leave out depends on how
    noisy the model is as a whole, so this is measured for each least number of bits.
    """
    recipe = replace(recipe or Recipe(), activations=None, float_inputs=())
    widths = sorted(set(bits))
    found = sensitivity(
        model,
        batches[::2],
        measured_on=batches[1::2][:MEASURED_ON] or None,
        roundings=[Rounding(width, nominal=n) for n in widths for width in widths if width >= n],
        recipe=recipe,
        ignore=ignore,
        max_memory_mb=max_memory_mb,
        progress=progress,
        cancelled=cancelled,
    )
    options: dict[int, dict[str, list[Option]]] = {n: {name: [] for name in found.layers} for n in widths}
    for cell in found.cells:
        option = Option(cell.rounding.weights, cell.stored_bits, cell.change.divergence)
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
