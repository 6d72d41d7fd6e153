"""From the inputs of one layer to its quantized twin: positions, moments, target, solver, bias."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medquant.gram import Moments, corrected_target, draw_positions
from medquant.grid import Grid, initial_grid, symmetric_zero
from medquant.layers import LayerGeometry, QuantizedLayer
from medquant.matrices import input_rows, spatial_grid
from medquant.quantized_model import LayerReport
from medquant.recipe import IntWeights, PerTensor, Recipe
from medquant.solvers.solve import Solution, solve

MINIMUM_POSITIONS = 16384
CHUNK_ELEMENTS = 16_000_000
"""Rows are gathered in pieces of so many numbers (64 MB), whatever the layer."""


@dataclass(frozen=True)
class LayerJob:
    """One layer to quantize: its (folded) weight and bias, its place in the network, its grid."""

    name: str
    index: int
    module: nn.Module
    weight: torch.Tensor
    bias: torch.Tensor | None
    bits: IntWeights
    geometry: LayerGeometry


FocusOf = Callable[[LayerJob, int, tuple[int, ...]], torch.Tensor | None]
"""(job, calibration input, grid of the layer) -> focus over the layer's rows."""


def collect_moments(
    job: LayerJob,
    quantized_inputs: Sequence[torch.Tensor],
    full_inputs: Sequence[torch.Tensor] | None,
    focus_of: FocusOf,
    recipe: Recipe,
    check: Callable[[], None],
) -> list[Moments]:
    """Moments of the inputs of one layer, one for each group of a convolution.

    `quantized_inputs` and, for sequential calibration, `full_inputs` hold the layer's input for each calibration
    input; both are read at the same positions.
    """
    settings = recipe.calibration
    layout = job.geometry.layout
    size = layout.to_matrices(job.weight).shape[1]
    moments = [Moments(size, full_inputs is not None) for _ in range(layout.groups)]
    count = max(settings.positions_per_input * size, MINIMUM_POSITIONS) // len(quantized_inputs)
    for number, inputs in enumerate(quantized_inputs):
        grid = spatial_grid(job.module, inputs)
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + job.index * 1009 + number)
        total = torch.Size(grid).numel()
        focus = focus_of(job, number, grid)
        positions = draw_positions(focus, total, count, settings.foreground_share, generator)
        chunk = max(1, CHUNK_ELEMENTS // (size * layout.groups))
        for part in positions.split(chunk):
            check()
            rows = input_rows(job.module, inputs, part)
            full = None if full_inputs is None else input_rows(job.module, full_inputs[number], part)
            for g, moment in enumerate(moments):
                moment.add(rows[g], None if full is None else full[g])
    return moments


def quantize_layer(
    job: LayerJob, moments: list[Moments], recipe: Recipe, check: Callable[[], None]
) -> tuple[QuantizedLayer, LayerReport]:
    """Solve one layer. The output's mean over the calibration positions is that of the FP32 layer, exactly."""
    began = time.perf_counter()
    layout = job.geometry.layout
    matrices = layout.to_matrices(job.weight)
    # The kernel offsets of a transposed convolution have one bias for all, which cannot absorb a mean for each.
    centred = recipe.calibration.centred and layout.share == 1
    shared_grid = _grid_of_whole(matrices, moments, job.bits, layout.share) if _needs_shared_grid(job) else None
    solutions: list[Solution] = []
    bias = torch.zeros(layout.outputs) if job.bias is None else job.bias.clone()
    for weight, moment in zip(matrices, moments):
        gram, cross = moment.gram(centred=centred)
        target = corrected_target(weight, gram, cross, recipe.calibration.ridge)
        solution = solve(
            target,
            gram,
            job.bits,
            method=recipe.method,
            sweeps=recipe.sweeps,
            share=layout.share,
            grid=shared_grid,
            check=check,
        )
        solutions.append(solution)
    zero = symmetric_zero(job.bits)
    codes = torch.stack([solution.codes for solution in solutions])
    layer = QuantizedLayer.from_solutions(
        job.geometry, job.bits.bits, codes, [solution.grid for solution in solutions], zero, None
    )
    decoded = layout.to_matrices(layer.weight)
    squared_error = squared_output = 0.0
    for g, (weight, moment) in enumerate(zip(matrices, moments)):
        if centred:
            mean, mean_full = moment.means()
            columns = slice(g * weight.shape[1], (g + 1) * weight.shape[1])
            bias[columns] += mean_full @ weight - mean @ decoded[g]
        error, output = _errors(weight, decoded[g], moment, centred)
        squared_error, squared_output = squared_error + error, squared_output + output
    if job.bias is not None or bool((bias != 0).any()):
        layer.bias = bias
    relative = (max(squared_error, 0.0) / max(squared_output, 1e-30)) ** 0.5
    effective = layer.stored_bits() / job.weight.numel()
    shape = tuple(job.weight.shape)
    seconds = time.perf_counter() - began
    return layer, LayerReport(job.name, job.geometry.kind, shape, job.bits.bits, effective, relative, seconds)


def _errors(weight: torch.Tensor, decoded: torch.Tensor, moment: Moments, centred: bool) -> tuple[float, float]:
    """E||x_q Q - x_f W||^2 and E||x_f W||^2, about the means where those are absorbed."""
    gram, cross = moment.gram(centred=centred)
    # Without a second moment of x_f of its own, that of x_q stands for it.
    output = float((weight * (gram @ weight)).sum())
    error = float((decoded * (gram @ decoded)).sum()) - 2 * float((decoded * (cross @ weight)).sum()) + output
    return error, output


def _needs_shared_grid(job: LayerJob) -> bool:
    return isinstance(job.bits.granularity, PerTensor) and job.geometry.groups > 1


def _grid_of_whole(matrices: torch.Tensor, moments: list[Moments], bits: IntWeights, share: int) -> Grid:
    """One scale for a grouped convolution: the grid is placed over all groups at once and then kept."""
    groups, m, n = matrices.shape
    together = matrices.transpose(0, 1).reshape(m, groups * n)
    grid = initial_grid(together, torch.ones(m), bits, torch.zeros(m, dtype=torch.long), share=groups * n)
    return Grid(grid.scale[:, :n], grid.offset[:, :n], grid.levels, grid.row_group)
