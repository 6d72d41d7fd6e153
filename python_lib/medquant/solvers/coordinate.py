"""COMQ by Gram matrices: coordinate descent on the output error, one row of codes at a time.

The objective of one column is ||X (w - q)||^2 = (w - q)^T H (w - q) with H = X^T X, so nothing else of X is needed
(Permutation-COMQ, equations 2 to 5). All columns are solved at once; rows are taken in the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from medquant.grid import Grid
from medquant.products import product

BLOCK = 128
"""Rows that share one matrix product; inside a block the gradient follows by rank-1 updates."""


def sweep(
    gram: torch.Tensor,
    target: torch.Tensor,
    error: torch.Tensor,
    grid: Grid,
    check: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """One pass over all rows: each becomes the code that is best given all the others.

    `gram` (m, m), `target` (m, n), `error` (m, n) the current target minus value, updated in place (zero before the
    first sweep: the weights themselves are the starting point). Returns the codes (m, n) as floating-point integers.
    The minimum of the objective over one coordinate is its value plus gradient over curvature; the objective is
    a parabola there, so the nearest level is the best one (equation 4).
    """
    m = target.shape[0]
    codes = torch.empty_like(target)
    curvature = gram.diagonal()
    top = grid.levels - 1
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        check()
        scale, offset = grid.rows(start, stop)
        gradient = gram[start:stop] @ error
        for row in range(start, stop):
            k = row - start
            best = (target[row] - error[row]).add_(gradient[k] / curvature[row])
            code = best.sub_(offset[k]).div_(scale[k]).round_().clamp_(0, top)
            codes[row] = code
            new = target[row] - torch.addcmul(offset[k], scale[k], code)
            if row + 1 < stop:
                gradient[k + 1 :].addr_(gram[row + 1 : stop, row], new - error[row])
            error[row] = new
    return codes


def refit(
    gram: torch.Tensor,
    target: torch.Tensor,
    codes: torch.Tensor,
    grid: Grid,
    zero: float | torch.Tensor | None,
    share: int = 1,
) -> Grid:
    """Least-squares scales for given codes (equation 5); with `zero=None` the offset is fitted too.

    `zero` is the zero point in units of the scale, a number or (g, n). Groups are fitted one after another, each
    given the others, so the objective never grows.
    """
    scale, offset = grid.scale.clone(), grid.offset.clone()
    single = scale.shape[0] == 1
    value = grid.decode(codes)
    for g in range(scale.shape[0]):
        rows = slice(None) if single else torch.nonzero(grid.row_group == g)[:, 0]
        block, own = (gram if single else gram[rows][:, rows]), codes[rows]
        # What the group has to explain: H (target - value of all the other groups), on the group's rows.
        wanted = product(gram, target) if single else gram[rows] @ (target - value) + block @ value[rows]
        if zero is None:
            new_scale, new_offset = _fit_line(block, own, wanted, share, (scale[g], offset[g]))
        else:
            shifted = own + (zero if isinstance(zero, float) else zero[g])
            top = pooled((shifted * wanted).sum(0), share)
            bottom = pooled((shifted * (block @ shifted)).sum(0), share)
            fitted = top / bottom
            usable = torch.isfinite(fitted) & (fitted > 0)
            new_scale = torch.where(usable, fitted, scale[g])
            new_offset = new_scale * (zero if isinstance(zero, float) else zero[g])
        scale[g], offset[g] = new_scale, new_offset
        value[rows] = offset[g] + scale[g] * own
    return replace(grid, scale=scale, offset=offset)


def _fit_line(
    block: torch.Tensor,
    codes: torch.Tensor,
    wanted: torch.Tensor,
    share: int,
    old: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset per column from the 2x2 normal equations of value = offset + scale * code."""
    products = product(block, codes)
    ones = block.sum()
    aa = pooled((codes * products).sum(0), share)
    ab = pooled(products.sum(0), share)
    bb = ones * share
    ya = pooled((codes * wanted).sum(0), share)
    yb = pooled(wanted.sum(0), share)
    determinant = aa * bb - ab * ab
    # Where the ones vector is nearly in the null space of H the offset is not determined: keep the old one.
    usable = determinant > 1e-6 * aa * bb
    scale = (bb * ya - ab * yb) / determinant
    offset = (aa * yb - ab * ya) / determinant
    usable &= torch.isfinite(scale) & torch.isfinite(offset) & (scale > 0)
    return torch.where(usable, scale, old[0]), torch.where(usable, offset, old[1])


def pooled(values: torch.Tensor, share: int) -> torch.Tensor:
    """Sum over the columns that share one scale, given back to each of them."""
    if share == 1:
        return values
    return values.reshape(-1, share).sum(1).repeat_interleave(share)


def objective(gram: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """(n,) squared output error of each column."""
    return (error * product(gram, error)).sum(0).clamp_min(0)
