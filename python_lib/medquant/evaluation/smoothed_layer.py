"""One layer's input before and after smoothing (MedQuanBench, Fig. 5)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.evaluation.kurtosis import kurtosis, mean_of_known
from medquant.evaluation.outlier_maps import coarse, rounded
from medquant.matrices import Layout
from medquant.rewrites.scaling import reach_of_inputs
from medquant.rewrites.smoothing import smoothing_factors

ROWS = 240
"""Runs of positions in which the layer is shown."""
SIDE = 64
"""The largest side of the matrices in JSON."""


@dataclass(frozen=True)
class SmoothedLayer:
    """One layer's input before and after smoothing with alpha 0.5.

    Smoothing divides each channel by a number of its own, which evens the channels out; within a channel all stays in
    proportion, outliers at few places too.
    """

    layer: str
    before: np.ndarray
    """Absolute values (runs of positions, channels), the largest of each run; of the first input."""
    after: np.ndarray
    kurtosis_within: float
    """Of each channel, mean over the channels: the same before and after, whatever a channel is divided by."""
    kurtosis_across: float
    """Over the channels at each position, mean over the positions, before; NaN with too few channels."""
    smoothed_kurtosis_across: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the largest of each channel, and both matrices at no more than 64 x 64."""
        told = asdict(self)
        for name in ("before", "after"):
            told[name] = rounded(coarse(getattr(self, name), SIDE))
            told[f"channel_maxima_{name}"] = getattr(self, name).max(0).tolist()
        return told | {name: known_or_none(told[name]) for name in told if name.endswith(("within", "across"))}


def smoothed_layer(name: str, module: nn.Module, values: torch.Tensor) -> SmoothedLayer:
    """A layer's input (channels, positions), and what it would be as `rewrites.smoothing` divides its channels."""
    after = values / factors(module, values.abs().amax(1))[:, None]

    def runs(values: torch.Tensor) -> np.ndarray:
        parts = values.abs().tensor_split(min(ROWS, values.shape[1]), 1)
        return torch.stack([part.amax(1) for part in parts]).numpy()

    across = [mean_of_known(kurtosis(one, 0)) for one in (values, after)]
    return SmoothedLayer(name, runs(values), runs(after), mean_of_known(kurtosis(values, 1)), *across)


def factors(module: nn.Module, largest: torch.Tensor) -> torch.Tensor:
    """What smoothing with alpha 0.5 divides each channel by, from its largest absolute value."""
    return smoothing_factors(largest, reach_of_inputs(module.weight.detach().float(), Layout.of(module)))


def known_or_none(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value
