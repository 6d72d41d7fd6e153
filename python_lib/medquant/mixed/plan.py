"""What bits are worth in each layer of a model, measured on calibration inputs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace

import torch

from medquant.mixed.chain import Allocation, Option, chain
from medquant.models.base import CalibrationBatch, Model
from medquant.progress import CancelCheck, ProgressCallback
from medquant.recipe import Recipe
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding

BITS = (2, 3, 4, 8)


def plan(
    model: Model,
    batches: Sequence[CalibrationBatch],
    *,
    recipe: Recipe | None = None,
    bits: Sequence[int] = BITS,
    references: Sequence[torch.Tensor | None] | None = None,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[Allocation]:
    """Allocations of bits to layers, from the smallest to the most precise.

    Each layer is rounded alone to each of `bits` by the recipe's method; its effect is the divergence of the classes'
    probabilities from FP32's, which ranks layers like the masks do and, unlike Dice, still tells small effects apart.
    """
    recipe = recipe or Recipe()
    found = sensitivity(
        model,
        batches,
        roundings=[Rounding(width) for width in bits],
        recipe=replace(recipe, activations=None),
        references=references,
        ignore=ignore,
        max_memory_mb=max_memory_mb,
        progress=progress,
        cancelled=cancelled,
    )
    options: dict[str, list[Option]] = {name: [] for name in found.layers}
    for cell in found.cells:
        options[cell.layer].append(Option(cell.rounding.weights, cell.stored_bits, cell.change.divergence))
    return chain(options)


def recipe_for(allocation: Allocation, recipe: Recipe | None = None) -> Recipe:
    """The recipe that gives each layer its bits."""
    recipe = recipe or Recipe()
    chosen = allocation.of()
    most = max(set(chosen.values()), key=list(chosen.values()).count)
    base = replace(recipe, weights=replace(recipe.weights, bits=most), ends_bits=None, extra_bits=0.0)
    overrides = {glob.escape(name): base.grid(bits) for name, bits in chosen.items() if bits != most}
    return replace(base, overrides=recipe.overrides | overrides)
