"""What "permuted" can mean in Permutation-COMQ: each reading as a pure function from weights and H to values and bits.

The paper (section 3.3) reorders "the elements of W in ascending order" and gives each column of the reordered matrix a
scale. Which elements move where, and which X then belongs to the reordered matrix, is left open. These functions are
for reproduction; of them the product has `rtn`, `comq`, (b) as `scope="layer"`, (d) and `default`, by its own solvers.

Weights are (m inputs, n outputs), H = X^T X (m, m); grids have an integer zero point, as the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2

import torch

from medquant.granularity import PerGroup
from medquant.grid import CLIPPING_FACTORS, Grid, grid_of_runs, initial_grid
from medquant.recipe import IntWeights
from medquant.solvers.coordinate import refit, sweep
from medquant.solvers.solve import Solution, nearest, solve

SWEEPS = 3
"""The paper's K, which it does not tell."""
UNCLIPPED = (1.0,)
"""The clipping factor lambda of Algorithm 1 left at one."""


@dataclass(frozen=True)
class Reading:
    """A matrix (m, n) by one reading, back in its original order: codes, what they stand for, and what that takes."""

    codes: torch.Tensor
    values: torch.Tensor
    scales: int
    """How many scales, each with a zero point."""
    index_bits: float = 0.0
    """Bits that tell which weight belongs to which scale, over the whole matrix, however well they are packed."""

    def effective_bits(self, bits: int) -> float:
        """Bits for each weight: codes, scales and zero points of 16 bits (of 32 above 6 bits), and the index."""
        number = 16 if bits <= 6 else 32
        return bits + (2 * number * self.scales + self.index_bits) / self.codes.numel()


Solver = Callable[[torch.Tensor, torch.Tensor, int, tuple[float, ...]], Reading]


def rtn(weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED) -> Reading:
    """The nearest level of the range of each column."""
    grid = _columns_grid(weight, gram, bits, factors)
    codes, grid = nearest(weight, _paper_grid(bits), grid=grid)
    return Reading(codes.to(torch.uint8), grid.decode(codes), weight.shape[1])


def comq(weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED) -> Reading:
    """COMQ (equations 2 to 5): nothing is permuted. Rows as they stand, scales fitted after each sweep."""
    grid = _columns_grid(weight, gram, bits, factors)
    zero = (grid.offset / grid.scale).round()
    codes, grid = _descend(weight, gram, grid, lambda codes, grid: refit(gram, weight, codes, grid, zero))
    return Reading(codes.to(torch.uint8), grid.decode(codes), weight.shape[1])


def rows_permuted(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED
) -> Reading:
    """(a) W_p = P W taken by its letter: whole rows in ascending order of their mean magnitude, X with them.

    The scale of a column does not depend on the order of its rows, so nothing is stored, and only the order of the
    coordinate descent changes.
    """
    order = weight.abs().mean(1).argsort(stable=True)
    found = comq(weight[order], gram[order][:, order], bits, factors)
    back = order.argsort()
    return Reading(found.codes[back], found.values[back], found.scales)


def layer_sorted(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED
) -> Reading:
    """(b) All weights of the layer in ascending order, cut into columns; the error is that of the real layer."""
    return _by_runs(weight, gram, bits, factors, weight.reshape(-1).argsort(stable=True))


def layer_sorted_by_magnitude(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED
) -> Reading:
    """(b) with the weights in ascending order of their magnitude."""
    return _by_runs(weight, gram, bits, factors, weight.abs().reshape(-1).argsort(stable=True))


def layer_sorted_as_printed(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED
) -> Reading:
    """(b) as Algorithm 1 is printed: COMQ on the sorted matrix with the X of the unsorted one, sorted back after."""
    m, n = weight.shape
    order = weight.reshape(-1).argsort(stable=True)
    found = comq(weight.reshape(-1)[order].reshape(n, m).T.contiguous(), gram, bits, factors)
    codes, values = (torch.empty_like(part).reshape(-1) for part in (found.codes, found.values))
    codes[order], values[order] = found.codes.T.reshape(-1), found.values.T.reshape(-1)
    return Reading(codes.reshape(m, n), values.reshape(m, n), n, index_bits=m * n * log2(n))


def columns_sorted(
    groups: int, weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = UNCLIPPED
) -> Reading:
    """(c) The weights of each column in ascending order, cut into so many groups with a scale each."""
    m, n = weight.shape
    if m % groups:
        raise ValueError(f"{m} rows do not fall into {groups} equal groups")
    order = (weight.argsort(dim=0, stable=True) * n + torch.arange(n)).T.reshape(-1)
    grid = grid_of_runs(weight, order, m // groups, gram.diagonal(), _paper_grid(bits), factors)
    zero = (grid.offset / grid.scale).round()

    def fit(codes: torch.Tensor, grid: Grid) -> Grid:
        return refit_within_columns(weight, gram, codes, grid, zero, groups)

    codes, grid = _descend(weight, gram, grid, fit)
    return Reading(codes.to(torch.uint8), grid.decode(codes), groups * n, index_bits=m * n * log2(groups))


def rows_in_groups(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = CLIPPING_FACTORS
) -> Reading:
    """(d) Rows of like magnitude share a group, and each group of a column has a scale: the product's, with groups."""
    size = min(64, len(weight) // 2)
    found = solve(weight, gram, IntWeights(bits, PerGroup(size), zero_point="integer"), sweeps=SWEEPS)
    groups = found.grid.scale.shape[0]
    return _of_product(found, index_bits=len(weight) * log2(groups))


def default(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...] = CLIPPING_FACTORS
) -> Reading:
    """The product's solver as it comes: a scale and a real-valued offset for each column, nothing to store besides."""
    return _of_product(solve(weight, gram, IntWeights(bits), sweeps=SWEEPS))


@dataclass(frozen=True)
class Named:
    """A reading as tables name it."""

    title: str
    solver: Solver
    clips_always: bool = False
    """The product's own solvers search the clipping factor, whatever is asked."""


READINGS = {
    "rtn": Named("round to nearest", rtn),
    "comq": Named("COMQ, nothing permuted", comq),
    "a": Named("(a) rows permuted", rows_permuted),
    "b": Named("(b) layer sorted", layer_sorted),
    "b-magnitude": Named("(b) by magnitude", layer_sorted_by_magnitude),
    "b-as-printed": Named("(b) with unsorted X", layer_sorted_as_printed),
    "c-2": Named("(c) columns, 2 groups", lambda *given: columns_sorted(2, *given)),
    "c-4": Named("(c) columns, 4 groups", lambda *given: columns_sorted(4, *given)),
    "d": Named("(d) rows in groups", rows_in_groups, clips_always=True),
    "default": Named("medquant's default", default, clips_always=True),
}


def refit_within_columns(
    weight: torch.Tensor, gram: torch.Tensor, codes: torch.Tensor, grid: Grid, zero: torch.Tensor, groups: int
) -> Grid:
    """Equation 5 for several scales in each column: each the least-squares one given the others, in turn.

    `zero` (groups n,) is the zero point of each scale; scale k of column j has the number j groups + k.
    """
    scale = grid.scale.clone()
    columns = torch.arange(weight.shape[1]) * groups
    steps = codes + zero[grid.row_group]
    for k in range(groups):
        value = scale[grid.row_group] * steps
        own = torch.where(grid.row_group == columns + k, steps, 0.0)
        rest = weight - value + scale[columns + k] * own
        fitted = (own * (gram @ rest)).sum(0) / (own * (gram @ own)).sum(0)
        usable = torch.isfinite(fitted) & (fitted > 0)
        scale[columns + k] = torch.where(usable, fitted, scale[columns + k])
    return Grid(scale, scale * zero, grid.levels, grid.row_group)


def _paper_grid(bits: int) -> IntWeights:
    return IntWeights(bits, zero_point="integer")


def _columns_grid(weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...]) -> Grid:
    rows = torch.zeros(len(weight), dtype=torch.long)
    return initial_grid(weight, gram.diagonal(), _paper_grid(bits), rows, factors=factors)


def _by_runs(
    weight: torch.Tensor, gram: torch.Tensor, bits: int, factors: tuple[float, ...], order: torch.Tensor
) -> Reading:
    """Coordinate descent where each weight has the scale of its run; scales stay as they were placed, because the
    weights of a run lie in all columns."""
    m, n = weight.shape
    grid = grid_of_runs(weight, order, m, gram.diagonal(), _paper_grid(bits), factors)
    codes, grid = _descend(weight, gram, grid, lambda codes, grid: grid)
    return Reading(codes.to(torch.uint8), grid.decode(codes), n, index_bits=m * n * log2(n))


def _descend(
    weight: torch.Tensor, gram: torch.Tensor, grid: Grid, fit: Callable[[torch.Tensor, Grid], Grid]
) -> tuple[torch.Tensor, Grid]:
    error = torch.zeros_like(weight)
    for _ in range(SWEEPS):
        codes = sweep(gram, weight, error, grid)
        grid = fit(codes, grid)
        error = weight - grid.decode(codes)
    return codes, grid


def _of_product(found: Solution, index_bits: float = 0.0) -> Reading:
    return Reading(found.codes, found.values(), found.grid.scale.numel(), index_bits)
