"""Kurtosis, within channels and across them.

It is the fourth standardized moment, 3 for a normal distribution (MedQuanBench, Fig. 1b and appendix C).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

QUANTILES = (0.1, 0.5, 0.9)


def by_channel(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A layer's input as (channels, positions), float32: channels are last for linear layers, second for others."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T.float()
    spatial = inputs.ndim - int(type(module).__name__[-2])
    channels = inputs.movedim(spatial - 1, 0)
    return channels.reshape(len(channels), -1).float()


def kurtosis(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Fourth standardized moment along an axis; NaN where nothing varies."""
    centred = values - values.mean(dim, keepdim=True)
    second = centred.square().mean(dim)
    scale = values.abs().amax(dim).clamp_min(torch.finfo(values.dtype).tiny)
    constant = second <= (1e-6 * scale).square()
    return torch.where(constant, torch.nan, centred.pow(4).mean(dim) / second.square())


def mean_of_known(values: torch.Tensor) -> float:
    """Without what is NaN; 0 where all is."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else 0.0


def quantiles_of_known(values: torch.Tensor) -> tuple[float, ...]:
    """At `QUANTILES`, without what is NaN; zeros where all is."""
    known = values[~values.isnan()].numpy()
    return tuple(float(value) for value in np.quantile(known, QUANTILES)) if len(known) else (0.0,) * len(QUANTILES)
