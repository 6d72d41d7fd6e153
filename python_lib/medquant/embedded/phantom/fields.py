"""Smooth random fields and the continuous patient space in which the phantom's shapes are evaluated.

Everything is defined in millimetres, so that one seed gives one anatomy on any grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

# Half extent (z, y, x) in mm of the space that random fields cover; farther positions are clamped.
HALF_EXTENT = (190.0, 190.0, 220.0)


def cubic_basis(positions: np.ndarray, pitch: float, half_extent: float) -> csr_array:
    """Uniform cubic B-spline weights, sparse (positions, knots); positions in mm."""
    knots = int(np.ceil(2 * half_extent / pitch)) + 4
    where = (np.clip(positions, -half_extent, half_extent) + half_extent) / pitch
    base = np.minimum(np.floor(where).astype(int), knots - 4)
    t = where - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    columns = base[:, None] + np.arange(4)
    rows = np.arange(0, 4 * len(positions) + 1, 4)
    return csr_array((weights.astype(np.float32).ravel(), columns.ravel(), rows), (len(positions), knots))


class SmoothField:
    """Gaussian random field of about unit standard deviation: white noise on a lattice, cubic B-splines between.

    `pitch` is the lattice spacing in mm, one number or (z, y, x). The field is separable in its basis, so
    that evaluating it on a grid is three small matrix products.
    """

    def __init__(self, rng: np.random.Generator, pitch: float | tuple[float, float, float]):
        self.pitch = (pitch, pitch, pitch) if np.isscalar(pitch) else tuple(pitch)
        knots = [int(np.ceil(2 * half / step)) + 4 for half, step in zip(HALF_EXTENT, self.pitch)]
        # .4794 is the mean over positions of the summed squared B-spline weights, per axis.
        self.lattice = rng.standard_normal(knots, dtype=np.float32) / np.float32(0.4794**1.5)

    def on(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values (len(z), len(y), len(x)) in float32 at the grid of the three axes, in mm; an axis may be empty."""
        values = np.empty((len(z), len(y), len(x)), np.float32)
        if values.size:
            plane = self.sampler(z, y, x)
            for k in range(len(z)):
                values[k] = plane(k)
        return values

    def sampler(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> Callable[[int], np.ndarray]:
        """A function slice index -> (len(y), len(x)) plane, for fields too fine to hold as a whole."""
        along_z, along_y, along_x = (cubic_basis(a, p, h) for a, p, h in zip((z, y, x), self.pitch, HALF_EXTENT))
        flat = along_z @ self.lattice.reshape(len(self.lattice), -1)
        planes = flat.reshape(-1, *self.lattice.shape[1:])
        return lambda k: (along_x @ (along_y @ planes[k]).T).T


@dataclass(frozen=True)
class Region:
    """A box of the patient space.

    x (left), y (posterior), z (superior): warped coordinates in mm, each (k, j, i). `axes` are the straight
    axes (z, y, x) they were warped from, never more than `slack` mm away; `box` is the index box (three
    slices) that the region fills in the whole space.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    slack: float
    box: tuple[slice, slice, slice]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    def indices(self, low, high) -> tuple[slice, slice, slice]:
        """Index box that holds every point between `low` and `high`, given as (x, y, z) in mm."""
        return tuple(
            slice(*np.searchsorted(axis, (a - self.slack, b + self.slack)))
            for axis, a, b in zip(self.axes, low[::-1], high[::-1])
        )

    def crop(self, low, high) -> Region:
        """The sub-box that holds every point between `low` and `high`, given as (x, y, z) in mm."""
        cut = self.indices(low, high)
        box = tuple(slice(w.start + c.start, w.start + c.stop) for w, c in zip(self.box, cut))
        axes = tuple(axis[c] for axis, c in zip(self.axes, cut))
        return Region(self.x[cut], self.y[cut], self.z[cut], axes, self.slack, box)


@dataclass(frozen=True)
class Shape:
    """A signed distance in mm (negative inside) on an index box of the space; far outside it is `FAR`."""

    distance: np.ndarray
    box: tuple[slice, slice, slice]

    def on(self, region: Region) -> np.ndarray:
        """The distance on another region's box, `FAR` where this shape does not reach."""
        out = np.full(region.shape, FAR, np.float32)
        mine, theirs = [], []
        for own, other in zip(self.box, region.box):
            start, stop = max(own.start, other.start), min(own.stop, other.stop)
            if start >= stop:
                return out
            mine.append(slice(start - own.start, stop - own.start))
            theirs.append(slice(start - other.start, stop - other.start))
        out[tuple(theirs)] = self.distance[tuple(mine)]
        return out


FAR = np.float32(40.0)
