"""From the inputs of one layer to its quantized twin: positions, moments, target, solver, bias."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from medquant.gram import Moments, choose_ridge, corrected_target, draw_positions, shrunk
from medquant.grid import Grid, initial_grid, sorted_grid, symmetric_zero
from medquant.input_grid import FocusOf, InputGrid
from medquant.jobs import LayerJob
from medquant.layers import QuantizedLayer
from medquant.matrices import CHUNK_ELEMENTS, input_rows, spatial_grid
from medquant.quantized_model import LayerReport
from medquant.recipe import IntWeights, Recipe
from medquant.solvers.solve import Solution, solve

MOST_POSITIONS = 65536
GRAM_OPERATIONS = 1.5e11
"""Multiplications that the moments of one layer may take; small layers see more positions than large ones."""
GATHER_MB = 2 * CHUNK_ELEMENTS * (4 + 8) / 1e6
"""What gathering a piece takes: rows of the quantized and of the FP32 network, each number with its address."""


def collect_moments(
    job: LayerJob,
    quantized_inputs: Sequence[torch.Tensor],
    full_inputs: Sequence[torch.Tensor] | None,
    focus_of: FocusOf,
    recipe: Recipe,
    check: Callable[[], None],
    *,
    halves: bool = True,
    input_grid: InputGrid | None = None,
) -> list[tuple[Moments, Moments]]:
    """Moments of the inputs of one layer, a pair of halves for each group of a convolution.

    The halves come from different calibration inputs, or, where there is but one, from different parts of it. Without
    `halves` the first holds everything and the second nothing, which takes half the memory.

    `quantized_inputs` and, for sequential calibration, `full_inputs` hold the layer's input for each calibration
    input; both are read at the same positions. `input_grid` is what happens to them before they meet the weights.
    """
    input_grid = input_grid or InputGrid()
    settings = recipe.calibration
    layout = job.geometry.layout
    size = layout.to_matrices(job.weight).shape[1]
    paired = full_inputs is not None
    moments = [(Moments(size, paired), Moments(size, paired)) for _ in range(layout.groups)]
    affordable = min(int(GRAM_OPERATIONS / size**2), MOST_POSITIONS)
    count = max(settings.positions_per_input * size, affordable) // len(quantized_inputs)
    for number, inputs in enumerate(quantized_inputs):
        grid = spatial_grid(job.module, inputs)
        generator = job.generator(settings.seed, number)
        total = torch.Size(grid).numel()
        focus = focus_of(job, number, grid)
        positions = draw_positions(focus, total, count, settings.share_for(job.activations), generator)
        chunk = max(1, CHUNK_ELEMENTS // (size * layout.groups))
        inputs = input_grid.rounded(inputs, job.geometry)
        full_input = None if full_inputs is None else input_grid.divided(full_inputs[number], job.geometry)
        middle = len(positions) // 2
        parts = [(number % 2 if halves else 0, positions)]
        if halves and len(quantized_inputs) == 1:
            parts = [(0, positions[:middle]), (1, positions[middle:])]
        for half, piece in ((half, piece) for half, part in parts for piece in part.split(chunk)):
            check()
            rows = input_rows(job.module, inputs, piece)
            full = None if full_input is None else input_rows(job.module, full_input, piece)
            for g, pair in enumerate(moments):
                pair[half].add(rows[g], None if full is None else full[g])
    return moments


def quantize_layer(
    job: LayerJob, halves: list[tuple[Moments, Moments]], recipe: Recipe, check: Callable[[], None]
) -> tuple[QuantizedLayer, LayerReport]:
    """Solve one layer. The output's mean over the calibration positions is that of the FP32 layer, exactly."""
    began = time.perf_counter()
    layout = job.geometry.layout
    matrices = layout.to_matrices(job.weight)
    # The kernel offsets of a transposed convolution have one bias for all, which cannot absorb a mean for each.
    centred = recipe.calibration.centred and layout.share == 1
    grid = grid_of_whole(matrices, job.bits) if job.shares_grid else None
    solutions: list[Solution] = []
    moments = [first + second for first, second in halves]
    rows, columns = job.live.rows(layout), job.live.columns(layout)
    for weight, moment, pair in zip(matrices, moments, halves):
        gram, cross = moment.gram(centred=centred)
        ridge = recipe.calibration.ridge
        if ridge is None and moment.paired:
            ridge = choose_ridge(weight, pair, centred=centred, check=check)
        target = corrected_target(weight, gram, cross, ridge, rows, check)[:, columns]
        if recipe.calibration.shrink:
            gram = shrunk(gram, pair, centred=centred)
        gram = gram[rows][:, rows]
        check()
        if recipe.scope == "layer":
            grid = sorted_grid(target, gram.diagonal() + gram.diagonal().mean() * 1e-6 + 1e-30, job.bits)
        solution = solve(
            target,
            gram,
            job.bits,
            method=recipe.method,
            sweeps=recipe.sweeps,
            share=layout.share,
            grid=grid,
            check=check,
        )
        solutions.append(solution)
    return finished_layer(job, solutions, [moment.means() for moment in moments] if centred else None, began)


def finished_layer(
    job: LayerJob,
    solutions: Sequence[Solution],
    means: Sequence[tuple[torch.Tensor, torch.Tensor]] | None,
    began: float,
) -> tuple[QuantizedLayer, LayerReport]:
    """The layer made of one solution for each group of a convolution, and its report; `began` was the clock's time.

    With `means`, the mean input (m,) of each group in the quantized and in the FP32 network, the bias makes up for
    what rounding takes from the mean output.
    """
    layout = job.geometry.layout
    codes = torch.stack([solution.codes for solution in solutions])
    grids, zero = [solution.grid for solution in solutions], symmetric_zero(job.bits)
    layer = QuantizedLayer.from_solutions(job.geometry, job.bits.bits, codes, grids, zero, None, job.live)
    bias = torch.zeros(layout.outputs) if job.bias is None else job.bias.clone()
    if means is not None:
        n = layout.columns
        decoded = layout.to_matrices(layer.weight)
        for g, (weight, (mean, mean_full)) in enumerate(zip(layout.to_matrices(job.weight), means, strict=True)):
            bias[g * n : (g + 1) * n] += mean_full @ weight - mean @ decoded[g]
    if job.bias is not None or bool((bias != 0).any()):
        layer.bias = bias
    error = sum(solution.squared_error for solution in solutions)
    output = sum(solution.squared_output for solution in solutions)
    relative = (error / max(output, 1e-30)) ** 0.5
    effective = layer.stored_bits() / job.weight.numel()
    shape = tuple(job.weight.shape)
    seconds = time.perf_counter() - began
    return layer, LayerReport(job.name, job.geometry.kind, shape, job.bits.bits, effective, relative, seconds)


def grid_of_whole(matrices: torch.Tensor, bits: IntWeights) -> Grid:
    """One scale for a grouped convolution: the grid is placed over all groups at once and then kept."""
    groups, m, n = matrices.shape
    together = matrices.transpose(0, 1).reshape(m, groups * n)
    grid = initial_grid(together, torch.ones(m), bits, torch.zeros(m, dtype=torch.long), share=groups * n)
    return Grid(grid.scale[:, :n], grid.offset[:, :n], grid.levels, grid.row_group)
