"""Second moments of a layer's inputs: all that the solvers need to know of the calibration set.

With X_q the inputs that the quantized network sees and X_f those of the FP32 network at the same positions, the
output error of a layer is ||X_q Q - X_f W||^2. It depends on the data through H = X_q^T X_q and the cross moment
C = X_q^T X_f alone. Centred moments leave the mean to the bias, which can absorb it exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from medquant.factorize import cholesky
from medquant.products import linear, product

RIDGES = (0.01, 0.1, 0.5, 3.0)
"""Candidate ridges for the corrected target, as parts of the mean of diag(H)."""
RIDGE_OUTPUTS = 128
"""Outputs of a layer on which the ridges are tried."""
BLOCK = 1024
"""Columns of H that are formed at a time: what lies above the diagonal blocks follows by symmetry."""


@dataclass
class Moments:
    """Running first and second moments of rows X_q (N, m) and, where they differ, X_f (N, m)."""

    size: int
    paired: bool
    dtype: torch.dtype = torch.float32
    count: int = 0
    shift: torch.Tensor | None = None
    """Subtracted before squaring, so that a large common mean costs no precision."""
    shift_full: torch.Tensor | None = None
    second: torch.Tensor = field(init=False)
    cross: torch.Tensor | None = field(init=False, default=None)
    first: torch.Tensor = field(init=False)
    first_full: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.size, self.size, dtype=self.dtype)
        self.cross = torch.zeros(self.size, self.size, dtype=self.dtype) if self.paired else None
        self.first = torch.zeros(self.size, dtype=self.dtype)
        self.first_full = torch.zeros(self.size, dtype=self.dtype)

    def add(self, rows: torch.Tensor, full: torch.Tensor | None = None) -> None:
        """Add rows (N, m) of the quantized network and, if paired, those of the FP32 network."""
        if not len(rows):
            return
        rows = rows.to(self.dtype)
        full = rows if full is None else full.to(self.dtype)
        if self.shift is None:
            self.shift, self.shift_full = rows.mean(0), full.mean(0)
        rows = rows - self.shift
        columns = rows.T.contiguous()
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            self.second[start:, start:stop] += linear(columns[start:], columns[start:stop])
            self.second[start:stop, stop:] = self.second[stop:, start:stop].T
        self.first += rows.sum(0)
        if self.cross is not None:
            full = full - self.shift_full
            self.cross += product(columns, full)
            self.first_full += full.sum(0)
        self.count += len(rows)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together."""
        if not self.count or not other.count:
            return other if other.count else self
        total = Moments(self.size, self.paired, self.dtype)
        total.count = self.count + other.count
        total.shift, total.shift_full = self.shift, self.shift_full
        move, move_full = other.shift - self.shift, other.shift_full - self.shift_full
        total.first = self.first + other.first + other.count * move
        total.first_full = self.first_full + other.first_full + other.count * move_full
        mixed = torch.outer(other.first, move)
        total.second = self.second + other.second + mixed + mixed.T + other.count * torch.outer(move, move)
        if self.paired:
            total.cross = self.cross + other.cross + torch.outer(other.first, move_full)
            total.cross += torch.outer(move, other.first_full) + other.count * torch.outer(move, move_full)
        return total

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean rows (m,) seen by the quantized and by the FP32 network."""
        mean = self.shift + self.first / self.count
        return mean, (self.shift_full + self.first_full / self.count if self.paired else mean)

    def gram(self, *, centred: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """H = E[x_q x_q^T] and C = E[x_q x_f^T], each (m, m), about the means if `centred`, else about zero."""
        d, d_full = self.first / self.count, self.first_full / self.count
        h = self.second / self.count - torch.outer(d, d)
        c = h if self.cross is None else self.cross / self.count - torch.outer(d, d_full)
        if not centred:
            mean, mean_full = self.means()
            raw = h + torch.outer(mean, mean)
            return raw, raw if self.cross is None else c + torch.outer(mean, mean_full)
        return h, c


def corrected_target(
    weight: torch.Tensor,
    gram: torch.Tensor,
    cross: torch.Tensor,
    ridge: float | None,
    rows: torch.Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """The weight (m', n) of the m' `rows` in use that on the quantized network's inputs best gives the FP32 output.

    argmin_V ||X_q V - X_f W||^2 + ridge mean(diag H) ||V - W||^2 = W + (H + ridge I)^-1 (C W - H W), with the rows of
    H, C and V that are in use. With `ridge=None` the FP32 weight itself.
    """
    rows = torch.arange(len(weight)) if rows is None else rows
    if ridge is None or (cross is gram and len(rows) == len(weight)):
        return weight[rows]
    block = gram[rows][:, rows]
    step = product(cross[rows], weight) - product(block, weight[rows])
    return weight[rows] + torch.cholesky_solve(step, cholesky(block, ridge, check))


def choose_ridge(
    weight: torch.Tensor,
    halves: tuple[Moments, Moments],
    *,
    centred: bool,
    check: Callable[[], None] = lambda: None,
) -> float | None:
    """The ridge whose corrected target errs least on the half of the calibration set that it was not fitted to.

    None where no correction does better than the FP32 weight itself. A hundred evenly spread outputs decide for all.
    """
    if not all(half.count for half in halves):
        return max(RIDGES)
    weight = weight[:, :: -(-weight.shape[1] // RIDGE_OUTPUTS)]
    problems = [half.gram(centred=centred) for half in halves]
    scores = dict.fromkeys(RIDGES, 0.0)
    for (gram, cross), (other_gram, other_cross) in (problems, problems[::-1]):
        wanted = other_cross @ weight
        # Relative to no correction at all; the common term ||X_f W||^2 cancels.
        plain = (weight * (other_gram @ weight - 2 * wanted)).sum()
        scale = (weight * (other_gram @ weight)).sum().clamp_min(torch.finfo(gram.dtype).tiny)
        step = (cross - gram) @ weight
        for ridge in RIDGES:
            check()
            target = weight + torch.cholesky_solve(step, cholesky(gram, ridge, check))
            error = (target * (other_gram @ target - 2 * wanted)).sum()
            scores[ridge] += float((error - plain) / scale)
    best = min(RIDGES, key=scores.__getitem__)
    return best if scores[best] < 0 else None


def shrunk(gram: torch.Tensor, halves: tuple[Moments, Moments], *, centred: bool) -> torch.Tensor:
    """H with its correlations shrunk by as much as they differ between the halves of the calibration set.

    A layer with more inputs than independent positions has correlations in H that are chance; codes fitted to them do
    worse on the next scan. What both halves agree on is taken for real: with S the common power of the off-diagonal
    elements and D that of half their difference, they are scaled by S / (S + D), the least-squares estimate.
    """
    if not all(half.count for half in halves):
        return gram
    first, second = (half.gram(centred=centred)[0] for half in halves)
    first, second = (h - torch.diag(h.diagonal()) for h in (first, second))
    common = float((first * second).sum())
    chance = float(((first - second) / 2).square().sum())
    factor = max(common, 0.0) / max(common + chance, torch.finfo(torch.float32).tiny)
    return gram * factor + torch.diag(gram.diagonal() * (1 - factor))


def draw_positions(
    focus: torch.Tensor | None, total: int, count: int, foreground_share: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw up to `count` of `total` flat positions, `foreground_share` of them where `focus` is above one half.

    `focus` (total,): above .5 foreground, 0 to .5 background, negative never drawn (padding). Sorted, no repeats.
    """
    if focus is None:
        return torch.randperm(total, generator=generator)[:count].sort().values
    inside = torch.nonzero(focus > 0.5)[:, 0]
    outside = torch.nonzero((focus >= 0) & (focus <= 0.5))[:, 0]
    wanted = min(len(inside), round(count * foreground_share))
    wanted = max(wanted, count - len(outside)) if len(inside) else 0
    chosen = [
        part[torch.randperm(len(part), generator=generator)[:n]]
        for part, n in ((inside, wanted), (outside, count - min(wanted, len(inside))))
    ]
    return torch.cat(chosen).sort().values


def resize_focus(focus: torch.Tensor, spatial: tuple[int, ...]) -> torch.Tensor:
    """A focus map (batch, *size) on a coarser or finer grid; a cell is foreground when any part of it is."""
    if tuple(focus.shape[1:]) == tuple(spatial):
        return focus
    pool = {1: functional.adaptive_max_pool1d, 2: functional.adaptive_max_pool2d, 3: functional.adaptive_max_pool3d}
    return pool[len(spatial)](focus[:, None].float(), tuple(spatial))[:, 0]


def focus_on_grid(module: nn.Module, grid: tuple[int, ...], focus: torch.Tensor | None) -> torch.Tensor | None:
    """The focus map over the rows of a layer, where the layer's grid tells how they lie in the image.

    Convolutions and channels-last linear layers keep the axes of the image; a sequence of tokens is taken for an
    image where its length is that of the image cut into equal patches.
    """
    if focus is None or grid[0] != focus.shape[0]:
        return None
    size = tuple(focus.shape[1:])
    if len(grid) - 1 == len(size):
        return resize_focus(focus, grid[1:]).reshape(-1)
    if isinstance(module, nn.Linear) and len(grid) == 2:
        for patch in range(1, min(size) + 1):
            cells = tuple(s // patch for s in size)
            if all(s % patch == 0 for s in size) and torch.Size(cells).numel() == grid[1]:
                return resize_focus(focus, cells).reshape(-1)
    return None


def dilate(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Grow a bool mask (batch, *spatial) by `radius` voxels along every axis."""
    pool = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[mask.ndim - 1]
    return pool(mask[:, None].float(), 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0.5
