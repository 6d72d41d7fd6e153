"""The range that an integer grid of activations is to span, found on samples.

Every observer takes samples (groups, k) and gives the lower and the upper end for each group, zero always between them
so that zero, and with it a convolution's padding, is exact.
"""

from __future__ import annotations

import math

import torch

from medquant.activation_settings import Observer

TAIL = 0.0005
"""Percentile observer: the part of the samples that may lie beyond either end."""
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28, 0.22, 0.16, 0.12)
"""Parts of the range that the squared-error observer tries, for both ends together and then for each alone."""
BINS = 2048
MOST_SAMPLES = 2**18


def find_range(
    samples: torch.Tensor,
    levels: int,
    observer: Observer,
    *,
    symmetric: bool,
    period: int = 1,
    most: int = MOST_SAMPLES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper ends (groups,), each at the outermost level, of `levels` evenly spaced ones.

    `period`: every so many numbers the same channel comes again. Beyond `most` numbers, evenly spread ones stand for
    all but the smallest and the largest. "output" begins where "mse" ends: the search by the layer's output needs the
    layer (`medquant.input_trial`).
    """
    low, high = samples.amin(1).float(), samples.amax(1).float()
    samples = samples[:, :: stride(samples.shape[1], max(1, most // len(samples)), period)].float()
    if observer == "percentile":
        low, high = (samples.kthvalue(_rank(samples.shape[1], part), dim=1).values for part in (TAIL, 1 - TAIL))
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    if observer in ("mse", "output"):
        return _least_error(samples, low, high, levels, symmetric)
    if observer == "entropy":
        ends = torch.stack([_least_divergence(row, levels) for row in samples])
        return torch.maximum(low, -ends), torch.minimum(high, ends)
    return low, high


def stride(count: int, most: int, period: int) -> int:
    """Every how many of `count` numbers to take so that they are `most` at most, and of all channels alike."""
    step = max(1, -(-count // most))
    while math.gcd(step, period) > 1:
        step += 1
    return step


def grid_of(low: torch.Tensor, high: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (an integer code) of `levels` levels from `low` to `high`."""
    scale = ((high - low) / (levels - 1)).clamp_min(1e-12)
    return scale, (-low / scale).round().clamp(0, levels - 1)


def _rank(count: int, part: float) -> int:
    return min(count, max(1, round(count * part)))


def _least_error(
    samples: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    levels: int,
    symmetric: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends with the least squared error: shrunk together, then each alone."""

    def cost(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        scale, zero = (value[:, None] for value in grid_of(low, high, levels))
        error = ((samples / scale + zero).round_().clamp_(0, levels - 1) - zero).mul_(scale).sub_(samples).square_()
        return error.mean(1)

    best = cost(low, high)
    ends = [low, high]
    for moving in ((0, 1),) if symmetric else ((0, 1), (0,), (1,), (0,), (1,)):
        start = list(ends)
        for factor in SHRINKS[1:]:
            tried = [start[i] * factor if i in moving else start[i] for i in (0, 1)]
            found = cost(*tried)
            better = found < best
            best = torch.where(better, found, best)
            ends = [torch.where(better, tried[i], ends[i]) for i in (0, 1)]
    return ends[0], ends[1]


def _least_divergence(samples: torch.Tensor, levels: int) -> torch.Tensor:
    """The magnitude at which to clip so that the histogram loses the least information, as Kullback and Leibler count.

    The histogram of magnitudes is cut at each candidate, what lies beyond is counted into its last bin, and it is
    compared with itself at the resolution of the grid (the calibration of NVIDIA TensorRT, GTC 2017).
    """
    magnitude = samples.abs()
    top = magnitude.max()
    if not top > 0:
        return top
    counts = torch.histc(magnitude, BINS, 0.0, float(top))
    half = max(2, levels // 2)
    best, chosen = None, BINS
    for end in range(max(half, BINS // 16), BINS + 1, 16):
        reference = counts[:end].clone()
        reference[-1] += counts[end:].sum()
        cell = torch.arange(end) * half // end
        total = torch.zeros(half).index_add_(0, cell, counts[:end])
        filled = torch.zeros(half).index_add_(0, cell, (counts[:end] > 0).float())
        coarse = torch.where(counts[:end] > 0, (total / filled.clamp_min(1))[cell], 0.0)
        p, q = reference / reference.sum(), coarse / coarse.sum().clamp_min(1e-12)
        inside = p > 0
        divergence = float((p[inside] * (p[inside] / q[inside].clamp_min(1e-9)).log()).sum())
        if best is None or divergence < best:
            best, chosen = divergence, end
    return top * chosen / BINS
