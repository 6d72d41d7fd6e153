"""Where in the image a layer's outliers are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

CELLS = 0.25
"""Rows that lie closer than so many voxels are one cell of a map."""
SIDES = {1: 64, 2: 64, 3: 32}
"""The largest side of a map in JSON, by its axes."""


@dataclass(frozen=True)
class OutlierMap:
    """At each place the largest distance of any channel from its mean, in standard deviations of that channel."""

    layer: str
    values: np.ndarray
    """Over the layer's own grid (z, y, x) or (y, x), whatever windows it sees; NaN where it has no row."""
    cells: tuple[np.ndarray, ...]
    """Along each axis the middle of the cells, in voxels of the network's input."""

    @property
    def at(self) -> tuple[float, ...]:
        """The place of the largest, in voxels of the network's input."""
        index = np.unravel_index(np.nanargmax(self.values), self.values.shape)
        return tuple(float(middle[one]) for middle, one in zip(self.cells, index, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the map at no more than 64 x 64 or 32 x 32 x 32, each cell the largest in it."""
        return {
            "layer": self.layer,
            "shape": list(self.values.shape),
            "largest": float(np.nanmax(self.values)),
            "at": list(self.at),
            "map": rounded(coarse(self.values, SIDES[self.values.ndim])),
        }


def outlier_map(layer: str, values: torch.Tensor, places: torch.Tensor) -> OutlierMap:
    """The map of a layer's input (channels, rows), the rows at `places` (axes, rows) in voxels; padding left out."""
    real = ~places.isnan().any(0)
    values, places = values[:, real], (places[:, real] / CELLS).round() * CELLS
    deviation, mean = torch.std_mean(values, 1, keepdim=True, correction=0)
    distance = ((values - mean).abs() / deviation.clamp_min(1e-12)).amax(0).numpy()
    found = [np.unique(line.numpy(), return_inverse=True) for line in places]
    drawn = np.full([len(middles) for middles, _ in found], -np.inf, dtype=np.float32)
    np.maximum.at(drawn, tuple(index for _, index in found), distance)
    return OutlierMap(layer, np.where(np.isinf(drawn), np.nan, drawn), tuple(middles for middles, _ in found))


def coarse(values: np.ndarray, side: int) -> np.ndarray:
    """Of at most `side` cells along each axis: the largest of each block, NaN where all of it is."""
    for axis, size in enumerate(values.shape):
        if size > side:
            starts = np.linspace(0, size, side, endpoint=False).astype(int)
            values = np.fmax.reduceat(values, starts, axis=axis)
    return values


def rounded(values: np.ndarray) -> list[Any]:
    """Nested lists of four significant digits; None for NaN, which JSON does not know."""
    if values.ndim > 1:
        return [rounded(part) for part in values]
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values.tolist()]
