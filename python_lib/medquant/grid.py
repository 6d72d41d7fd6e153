"""Uniform integer grids: where the levels of a weight lie, and how they are first placed.

Throughout, a weight is a matrix of shape (m, n): m inputs by n outputs. A grid has one scale and one offset for
each group of rows of each column, shape (g, n); a level is `offset + scale * code`, with codes from 0 to 2^b - 1.
`share` adjacent columns (the kernel offsets of one output channel of a transposed convolution) have one scale and
one offset in common.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from medquant.recipe import IntWeights

CLIPPING_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28)
"""The lambda of Permutation-COMQ, Algorithm 1: how much of the range of a column its grid spans."""


@dataclass(frozen=True)
class Grid:
    """Scales and offsets, each of shape (g, n), and the group (m,) that each row belongs to.

    Groups need not be runs of rows: a permutation that gathers similar rows is kept as nothing but `row_group`. Where
    single weights are gathered rather than rows (`sorted_grid`), `row_group` is (m, n), and scales and offsets (g,).
    """

    scale: torch.Tensor
    offset: torch.Tensor
    levels: int
    """Number of codes, 2^b."""
    row_group: torch.Tensor

    def rows(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and offset of rows `start` to `stop`, each of shape (stop - start, n)."""
        index = self.row_group[start:stop]
        return self.scale[index], self.offset[index]

    def reorder(self, order: torch.Tensor) -> Grid:
        """The grid of the matrix with its rows taken in `order`."""
        return replace(self, row_group=self.row_group[order])

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Nearest codes of a (m, n) matrix, as floating-point integers."""
        scale, offset = self.rows(0, values.shape[0])
        return ((values - offset) / scale).round_().clamp_(0, self.levels - 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Values of a (m, n) matrix of codes."""
        scale, offset = self.rows(0, codes.shape[0])
        return torch.addcmul(offset, scale, codes.to(scale.dtype))


def symmetric_zero(weights: IntWeights) -> float | None:
    """The zero point in units of the scale where it is fixed by the kind of grid, else None."""
    if weights.zero_point == "half":
        return -(2**weights.bits - 1) / 2
    if weights.symmetric:
        return -float(2 ** (weights.bits - 1))
    return None


def initial_grid(
    matrix: torch.Tensor,
    importance: torch.Tensor,
    weights: IntWeights,
    row_group: torch.Tensor,
    *,
    share: int = 1,
    factors: tuple[float, ...] = CLIPPING_FACTORS,
) -> Grid:
    """Place the levels of each group of each column, searching the clipping factor.

    `importance` (m,) weighs the rows, diag(H) as a rule. For each factor the matrix is rounded to the nearest
    level, the grid is refitted to those codes where the kind of grid leaves it free, and the factor with the least
    weighted squared error wins, per group and column.
    """
    importance = importance + importance.mean() * 1e-6 + torch.finfo(matrix.dtype).tiny
    scale, offset = [], []
    for g in range(int(row_group.max()) + 1):
        rows = row_group == g
        group_scale, group_offset = _search(matrix[rows], importance[rows], weights, share, factors)
        scale.append(group_scale)
        offset.append(group_offset)
    return Grid(torch.stack(scale), torch.stack(offset), 2**weights.bits, row_group)


def sorted_grid(matrix: torch.Tensor, importance: torch.Tensor, weights: IntWeights) -> Grid:
    """The paper as read: all weights of the matrix in ascending order, cut into n runs of m with a grid each.

    Permutation-COMQ, section 3.3, "Permutation". Every weight needs the number of its run to be decoded.
    """
    return grid_of_runs(matrix, matrix.reshape(-1).argsort(stable=True), len(matrix), importance, weights)


def grid_of_runs(
    matrix: torch.Tensor,
    order: torch.Tensor,
    length: int,
    importance: torch.Tensor,
    weights: IntWeights,
    factors: tuple[float, ...] = CLIPPING_FACTORS,
) -> Grid:
    """The elements of a matrix (m, n) in `order` (m n,), cut into runs of `length` with a grid each."""
    m, n = matrix.shape
    runs = torch.empty(m * n, dtype=torch.long)
    runs[order] = torch.arange(m * n) // length
    columns = matrix.reshape(-1)[order].reshape(-1, length).T
    weight = importance[order // n].reshape(-1, length).T
    scale, offset = _search(columns, weight, weights, 1, factors)
    return Grid(scale, offset, 2**weights.bits, runs.reshape(m, n))


def _search(
    matrix: torch.Tensor, importance: torch.Tensor, weights: IntWeights, share: int, factors: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset (n,) of one group of rows; `importance` is (m,) or, with a share of one, (m, n)."""
    m, n = matrix.shape
    # Everything that one scale covers stands along the first axis: (m * share, n / share).
    cells = matrix.reshape(m, n // share, share).transpose(1, 2).reshape(m * share, n // share)
    weight = importance.repeat_interleave(share)[:, None] if importance.ndim == 1 else importance
    best_error = best_scale = best_offset = None
    for factor in factors:
        scale, offset = _span(cells, weights, factor)
        codes = ((cells - offset) / scale).round_().clamp_(0, 2**weights.bits - 1)
        if weights.zero_point == "real" and not weights.symmetric and factor < 1.0:
            scale, offset = _refit(cells, codes, weight, scale, offset)
            codes = ((cells - offset) / scale).round_().clamp_(0, 2**weights.bits - 1)
        error = (weight * (offset + scale * codes - cells) ** 2).sum(0)
        if best_error is None:
            best_error, best_scale, best_offset = error, scale, offset
        else:
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_offset = torch.where(better, offset, best_offset)
    return best_scale.repeat_interleave(share), best_offset.repeat_interleave(share)


def _span(cells: torch.Tensor, weights: IntWeights, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset of a grid over `factor` of the range of each column."""
    low, high = cells.amin(0), cells.amax(0)
    steps = 2**weights.bits - 1
    largest = torch.maximum(low.abs(), high.abs())
    tiny = torch.finfo(cells.dtype).tiny * 1e6
    if weights.zero_point == "half":
        scale = (2 * factor * largest / steps).clamp_min(tiny)
        return scale, scale * symmetric_zero(weights)
    if weights.symmetric:
        scale = (factor * largest / (2 ** (weights.bits - 1) - 1)).clamp_min(tiny)
        return scale, scale * symmetric_zero(weights)
    if weights.zero_point == "integer":
        scale = (factor * (high - low) / steps).clamp_min(tiny)
        constant = high == low
        scale = torch.where(constant, largest.clamp_min(tiny), scale)
        return scale, scale * (factor * low / scale).round()
    centre, half = (high + low) / 2, factor * (high - low) / 2
    scale = 2 * half / steps
    # A constant column is its own offset; any positive scale serves.
    scale = torch.where(scale > tiny, scale, largest.clamp_min(tiny))
    return scale, torch.where(half > tiny, centre - half, centre)


def _refit(
    cells: torch.Tensor, codes: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted least squares of cells = offset + scale * codes; the old grid where that is degenerate."""
    total = weight.sum(0)
    mean_code = (weight * codes).sum(0) / total
    mean_cell = (weight * cells).sum(0) / total
    spread = codes - mean_code
    variance = (weight * spread**2).sum(0) / total
    slope = (weight * spread * (cells - mean_cell)).sum(0) / total / variance.clamp_min(1e-12)
    usable = (variance > 1e-6) & (slope > 0)
    return torch.where(usable, slope, scale), torch.where(usable, mean_cell - slope * mean_code, offset)
