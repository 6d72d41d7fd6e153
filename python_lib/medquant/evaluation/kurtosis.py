"""Kurtosis, within channels and across them.

It is the fourth standardized moment, 3 for a normal distribution (MedQuanBench, Fig. 1b and appendix C).
"""

from __future__ import annotations

import numpy as np
import torch

QUANTILES = (0.1, 0.5, 0.9)
FEWEST = 8
"""Of fewer numbers nothing is told: that of n numbers is at most n - 2 + 1 / (n - 1), whatever they are."""


def kurtosis(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Fourth standardized moment along an axis; NaN where nothing varies, and of fewer than `FEWEST` numbers."""
    centred = values - values.mean(dim, keepdim=True)
    second = centred.square().mean(dim)
    scale = values.abs().amax(dim).clamp_min(torch.finfo(values.dtype).tiny)
    constant = second <= (1e-6 * scale).square()
    if values.shape[dim] < FEWEST:
        return torch.full_like(second, torch.nan)
    return torch.where(constant, torch.nan, centred.pow(4).mean(dim) / second.square())


def mean_of_known(values: torch.Tensor) -> float:
    """Without what is NaN; NaN where all is."""
    return float(values.nanmean())


def quantiles_of_known(values: torch.Tensor) -> tuple[float, ...]:
    """At `QUANTILES`, without what is NaN; NaN where all is."""
    known = values[~values.isnan()].numpy()
    return tuple(np.quantile(known, QUANTILES).tolist()) if len(known) else (np.nan,) * len(QUANTILES)
