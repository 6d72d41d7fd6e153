"""A layer rounded to the nearest level, without a solver: no second moments, so seconds where those take minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from medquant.calibrate import finished_layer, grid_of_whole
from medquant.gram import draw_positions
from medquant.input_grid import FocusOf, InputGrid
from medquant.jobs import LayerJob
from medquant.layers import QuantizedLayer
from medquant.matrices import spatial_grid
from medquant.products import product
from medquant.quantized_model import LayerReport
from medquant.recipe import Recipe
from medquant.solvers.solve import Solution, nearest

POSITIONS = 1024
"""Positions, over all calibration inputs, for the mean that the bias absorbs and for the error that is reported."""


def round_layer(
    job: LayerJob,
    inputs: Sequence[torch.Tensor],
    focus_of: FocusOf,
    recipe: Recipe,
    input_grid: InputGrid,
    check: Callable[[], None],
) -> tuple[QuantizedLayer, LayerReport]:
    """Round one layer that gets `inputs`, one for each calibration input.

    The output's mean over the positions looked at is that of the FP32 layer, exactly, if the recipe centres.
    """
    began = time.perf_counter()
    layout = job.geometry.layout
    centred = recipe.calibration.centred and layout.share == 1
    matrices = layout.to_matrices(job.weight)
    rows, columns = job.live.rows(layout), job.live.columns(layout)
    rounded_rows, full_rows = seen_rows(job, inputs, focus_of, recipe, input_grid, check)
    grid = grid_of_whole(matrices, job.bits) if job.shares_grid else None
    solutions, means = [], []
    for weight, seen, full in zip(matrices, rounded_rows, full_rows, strict=True):
        check()
        mean, mean_full = seen.mean(0), full.mean(0)
        target = weight[rows][:, columns]
        codes, found = nearest(target, job.bits, share=layout.share, grid=grid)
        wanted = product(full - mean_full if centred else full, weight[:, columns])
        got = product((seen - mean if centred else seen)[:, rows], found.decode(codes))
        squared = (float(part.square().sum()) / len(seen) for part in (got - wanted, wanted))
        solutions.append(Solution(codes.to(torch.uint8), found, *squared))
        means.append((mean, mean_full))
    return finished_layer(job, solutions, means if centred else None, began)


def seen_rows(
    job: LayerJob,
    inputs: Sequence[torch.Tensor],
    focus_of: FocusOf,
    recipe: Recipe,
    input_grid: InputGrid,
    check: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the layer sees at the same positions after and before rounding: two of (groups, positions, m)."""
    share = recipe.calibration.share_for(job.activations)
    count = -(-job.geometry.layout.at_most(POSITIONS) // len(inputs))
    rounded, full = [], []
    for number, one in enumerate(inputs):
        check()
        grid = spatial_grid(job.module, one)
        focus, total = focus_of(job, number, grid), torch.Size(grid).numel()
        generator = job.generator(recipe.calibration.seed, number)
        positions = draw_positions(focus, total, count, share, generator)
        for rows, kept in zip(input_grid.rows(job, one, positions), (full, rounded), strict=True):
            kept.append(rows)
    return torch.cat(rounded, 1), torch.cat(full, 1)
