"""How well two masks agree, in Dice, surface distance and millilitres.

Empty masks are a matter of definition: two empty masks agree (DSC 1, NSD 1, HD95 0 mm); where only one of them is
empty nothing agrees (DSC 0, NSD 0, HD95 infinite). No metric is ever NaN. `docs/metrics.md` says why these are not
MONAI's functions, whose numbers they give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from medquant.errors import UserError
from medquant.evaluation.structures import joint_box
from medquant.imaging.lattice import extents_of

# A distance of exactly the tolerance is within it, whatever the last bit of the spacing says.
_ROUNDING_MM = 1e-6


@dataclass(frozen=True)
class Agreement:
    """How well two masks of one structure agree."""

    dsc: float
    """Dice similarity coefficient, 0 to 1."""
    nsd: float
    """Normalized surface Dice, 0 to 1: the part of both surfaces that lies within the tolerance of the other."""
    hd95_mm: float
    """Hausdorff distance, 95th percentile, in mm; infinite where only one of the masks is empty."""


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice similarity coefficient 2|A∩B| / (|A|+|B|) of two boolean masks of one shape (Dice 1945)."""
    a, b = _as_masks(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2.0 * np.count_nonzero(a & b) / total) if total else 1.0


def mean_dice(labels: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean Dice over the labels of `truth`, 0 left out, of two label maps of one shape; None where it has none."""
    found = [label for label in np.unique(truth) if label]
    return float(np.mean([dice(labels == label, truth == label) for label in found])) if found else None


def agreement(a: np.ndarray, b: np.ndarray, spacing: Sequence[float], tolerance_mm: float = 2.0) -> Agreement:
    """DSC, NSD and HD95 of two boolean masks of one shape; `spacing` is the voxel size in mm along their axes.

    NSD is that of Nikolov et al. 2021, counted in surface voxels; HD95 the larger of the two directed percentiles.
    A surface is the set of voxels of a mask with a face on the outside, the border of the array counted as outside;
    along an axis of one voxel there is no outside (a single slice is compared as a plane). Distances are Euclidean
    between voxel centres, in mm. Raises `UserError` for masks of different shapes, a spacing that is not positive
    and a negative tolerance.
    """
    a, b = _as_masks(a, b)
    spacing = _as_spacing(spacing, a.ndim)
    if not tolerance_mm >= 0:
        raise UserError(f"The tolerance cannot be {tolerance_mm} mm. Give a number of millimetres from 0 upwards.")
    if not (a.any() and b.any()):
        return Agreement(0.0, 0.0, math.inf) if a.any() or b.any() else Agreement(1.0, 1.0, 0.0)
    box = joint_box([extents_of(a | b)[1]], a.shape)
    a_to_b, b_to_a = surface_distances(a[box], b[box], spacing)
    limit = tolerance_mm + _ROUNDING_MM
    within = np.count_nonzero(a_to_b <= limit) + np.count_nonzero(b_to_a <= limit)
    return Agreement(
        dsc=dice(a[box], b[box]),
        nsd=float(within / (len(a_to_b) + len(b_to_a))),
        hd95_mm=float(max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95))),
    )


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm of each surface voxel of `a` to the surface of `b`, and the other way round.

    Both masks must hold at least one voxel.
    """
    surface_a, surface_b = surface(a), surface(b)
    return _directed(surface_a, surface_b, spacing), _directed(surface_b, surface_a, spacing)


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a boolean mask that have a face on the outside, as a mask."""
    kept = tuple(0 if length == 1 else slice(None) for length in mask.shape)
    thin = mask[kept]
    edge = np.zeros_like(mask)
    edge[kept] = thin & ~binary_erosion(thin) if thin.ndim else thin
    return edge


def _directed(source: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    # Most surface voxels of two good masks coincide: only the others need a search. Points of a lattice need no
    # balanced tree.
    distances = np.zeros(np.count_nonzero(source))
    apart = ~target[source]
    if apart.any():
        tree = cKDTree(np.argwhere(target) * spacing, balanced_tree=False, compact_nodes=False)
        distances[apart] = tree.query(np.argwhere(source)[apart] * spacing)[0]
    return distances


def _as_masks(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape:
        raise UserError(
            f"Two masks of {a.shape} and {b.shape} voxels cannot be compared. Resample one onto the other's grid."
        )
    return a, b


def _as_spacing(spacing: Sequence[float], dimensions: int) -> np.ndarray:
    spacing = np.asarray(spacing, dtype=np.float64)
    if spacing.shape != (dimensions,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise UserError(f"The voxel size {spacing.tolist()} is not usable. Give {dimensions} positive numbers in mm.")
    return spacing
