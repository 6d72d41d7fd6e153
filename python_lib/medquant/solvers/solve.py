"""One matrix, one Gram matrix, one recipe: codes and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from medquant.factorize import inverse_factor
from medquant.granularity import PerChannel, PerGroup, PerTensor
from medquant.grid import Grid, initial_grid, symmetric_zero
from medquant.recipe import IntWeights, Method
from medquant.solvers.coordinate import objective, pooled, refit, sweep
from medquant.solvers.gptq import gptq

DAMPING = 0.01
"""Added to the diagonal of H, as a part of its mean: decides inputs that are dead on the calibration set."""

STARTS = ((1.0, 0.0), (0.8, 0.0), (1.2, 0.0), (1.0, -0.3), (1.0, 0.3), (0.8, -0.3), (0.8, 0.3), (1.2, -0.3), (1.2, 0.3))
"""Grids to start from: the initial one with its scale multiplied, and moved by a part of a step. Coordinate descent
ends in the nearest minimum; with few levels the minima differ much."""


@dataclass(frozen=True)
class Solution:
    """Integer codes (m, n) in uint8, in the original row order, with the grid that decodes them."""

    codes: torch.Tensor
    grid: Grid
    squared_error: float
    """||X (W - Q)||^2 on the calibration positions, for the target W."""
    squared_output: float
    """||X W||^2 likewise."""

    @property
    def relative_error(self) -> float:
        """Root of the squared error over the squared output."""
        return (self.squared_error / max(self.squared_output, 1e-30)) ** 0.5

    def values(self) -> torch.Tensor:
        """The quantized matrix (m, n)."""
        return self.grid.decode(self.codes)


def damped(gram: torch.Tensor, share: float = DAMPING) -> torch.Tensor:
    """`gram` with `share` of its mean diagonal added, so that it is positive definite whatever it was."""
    mean = gram.diagonal().mean()
    floor = share * mean if mean > 0 else gram.new_tensor(1.0)
    return gram + floor * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)


def solve(
    target: torch.Tensor,
    gram: torch.Tensor,
    weights: IntWeights,
    *,
    method: Method = "permutation-comq",
    sweeps: int = 3,
    share: int = 1,
    grid: Grid | None = None,
    check: Callable[[], None] = lambda: None,
) -> Solution:
    """Quantize `target` (m, n) given H = X^T X (m, m), undamped. Nothing passed in is modified.

    - `rtn`: nearest level of the plain range; H is not used.
    - `comq`: coordinate descent in the order of the rows from the plain range, scales refitted after each sweep.
    - `permutation-comq`: rows in descending order of diag(H), groups gathered by the magnitude of their weights, the
      clipping factor searched, scales and offsets fitted after each sweep; starts from the codes of one pass with
      error feedback.
    - `gptq`: one pass with error feedback, rows in descending order of diag(H), clipping factor searched.

    A `grid` that is passed in is used as it stands.
    """
    gram = damped(gram)
    if method == "rtn":
        codes, grid = nearest(target, weights, share=share, grid=grid)
    else:
        importance = gram.diagonal()
        spread = target.shape[1] if isinstance(weights.granularity, PerTensor) else share
        fixed = grid is not None
        if grid is None:
            row_group = rows_to_groups(target, weights, gather=method == "permutation-comq")
            factors = {"factors": (1.0,)} if method == "comq" else {}
            grid = initial_grid(target, importance, weights, row_group, share=spread, **factors)
        order = torch.arange(len(target)) if method == "comq" else importance.argsort(descending=True, stable=True)
        ordered = gram[order][:, order]
        grid = grid.reorder(order)
        fit = None if fixed else lambda codes, grid: refit(ordered, target[order], codes, grid, zero, spread)
        zero = _zero_in_steps(grid, weights)
        codes, grid = _solve_ordered(ordered, target[order], grid, method, sweeps, fit, spread, check)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        codes, grid = codes[back], grid.reorder(back)
    error = target - grid.decode(codes)
    squared = (float(objective(gram, part).sum()) for part in (error, target))
    return Solution(codes.to(torch.uint8), grid, *squared)


def nearest(
    target: torch.Tensor, weights: IntWeights, *, share: int = 1, grid: Grid | None = None
) -> tuple[torch.Tensor, Grid]:
    """The nearest level of the plain range for each weight (m, n): codes, and the grid unless one is passed in."""
    if grid is None:
        row_group = rows_to_groups(target, weights, gather=False)
        spread = target.shape[1] if isinstance(weights.granularity, PerTensor) else share
        grid = initial_grid(target, torch.ones(len(target)), weights, row_group, share=spread, factors=(1.0,))
    return grid.encode(target), grid


def _solve_ordered(
    gram: torch.Tensor,
    target: torch.Tensor,
    grid: Grid,
    method: Method,
    sweeps: int,
    fit: Callable[[torch.Tensor, Grid], Grid] | None,
    share: int,
    check: Callable[[], None],
) -> tuple[torch.Tensor, Grid]:
    """Codes and grid of rows that already stand in solving order; `fit` refits the grid to codes."""
    if method == "gptq":
        return gptq(inverse_factor(gram, check), target, grid, check), grid
    error = torch.zeros_like(target)
    if method == "permutation-comq":
        grid, error = _best_start(gram, target, grid, fit, share, check)
    for _ in range(sweeps):
        codes = sweep(gram, target, error, grid, check)
        grid = fit(codes, grid) if fit else grid
        error = target - grid.decode(codes)
    return codes, grid


def _best_start(
    gram: torch.Tensor,
    target: torch.Tensor,
    grid: Grid,
    fit: Callable[[torch.Tensor, Grid], Grid] | None,
    share: int,
    check: Callable[[], None],
) -> tuple[Grid, torch.Tensor]:
    """One pass with error feedback from each starting grid; the best for each column, and its error (m, n).

    Columns that share a scale choose together. A grid that may not move (no `fit`) is the only start.
    """
    factor = inverse_factor(gram, check)
    best: tuple[torch.Tensor, Grid, torch.Tensor] | None = None
    for stretch, shift in STARTS[: starts_for(grid.levels)] if fit else STARTS[:1]:
        centre = grid.offset + grid.scale * ((grid.levels - 1) / 2 + shift)
        scale = grid.scale * stretch
        start = replace(grid, scale=scale, offset=centre - scale * ((grid.levels - 1) / 2))
        codes = gptq(factor, target, start, check)
        start = fit(codes, start) if fit else start
        error = target - start.decode(codes)
        cost = pooled(objective(gram, error), share)
        if best is None:
            best = cost, start, error
            continue
        better = cost < best[0]
        scale = torch.where(better, start.scale, best[1].scale)
        offset = torch.where(better, start.offset, best[1].offset)
        merged = replace(start, scale=scale, offset=offset)
        best = torch.where(better, cost, best[0]), merged, torch.where(better, error, best[2])
    return best[1], best[2]


def starts_for(levels: int) -> int:
    """How many starting grids are worth their time."""
    return {4: 9, 8: 5}.get(levels, 1)


def _zero_in_steps(grid: Grid, weights: IntWeights) -> float | torch.Tensor | None:
    """The zero point in units of the scale, where refitting must keep it; None where the offset is free."""
    fixed = symmetric_zero(weights)
    if fixed is not None:
        return fixed
    return (grid.offset / grid.scale).round() if weights.zero_point == "integer" else None


def rows_to_groups(target: torch.Tensor, weights: IntWeights, *, gather: bool) -> torch.Tensor:
    """Group (m,) of each row: one group, or runs of rows, gathered by the magnitude of their weights if asked."""
    m = target.shape[0]
    if isinstance(weights.granularity, PerTensor | PerChannel):
        return torch.zeros(m, dtype=torch.long)
    assert isinstance(weights.granularity, PerGroup)
    runs = torch.arange(m) // weights.granularity.size
    if not gather:
        return runs
    order = target.square().mean(1).argsort(stable=True)
    groups = torch.empty_like(runs)
    groups[order] = runs
    return groups
