"""Two masks of a structure slice by slice: what a whole structure's Dice averages away.

A model that loses a whole part in one slice of forty keeps its Dice. Whoever scrolls past that slice sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import minimum_filter1d

LEAST_VOXELS = 3
"""A patch is at least so many voxels wide: where voxels are large, a rim of one is no patch."""


@dataclass(frozen=True)
class SliceAgreement:
    """One slice in which two masks of a structure differ."""

    index: int
    only_first: int
    """Voxels that only the first mask has."""
    only_second: int
    missing: float
    """Part of the larger of the two masks in this slice that the other one lacks, 0 to 1."""
    section: float
    """The larger mask's area in this slice as a part of its largest in any slice, 0 to 1: small at an organ's tips."""
    patch_mm: float
    """Side of the largest of the asked squares that fits into what only one of the masks has; 0: none does."""

    @property
    def voxels(self) -> int:
        """How many voxels differ."""
        return self.only_first + self.only_second


def agreement_by_slice(
    first: np.ndarray, second: np.ndarray, spacing: Sequence[float], axis: int, patches_mm: Sequence[float]
) -> tuple[SliceAgreement, ...]:
    """The slices along an array axis in which two boolean masks of one shape differ, in order.

    `spacing` is the voxel size in mm along the axes, `patches_mm` the sides of the squares that are looked for.
    """
    first, second = np.moveaxis(first, axis, 0), np.moveaxis(second, axis, 0)
    in_plane = np.delete(np.asarray(spacing, dtype=float), axis)
    areas = [np.count_nonzero(mask, axis=(1, 2)) for mask in (first, second)]
    alone = [first & ~second, second & ~first]
    counts = [np.count_nonzero(mask, axis=(1, 2)) for mask in alone]
    largest = [max(int(area.max(initial=0)), 1) for area in areas]
    patches = np.zeros(len(first))
    for side in sorted(patches_mm):
        lengths = [max(LEAST_VOXELS, round(side / size)) for size in in_plane]
        for mask, count in zip(alone, counts, strict=True):
            for index in np.flatnonzero(count >= np.prod(lengths)):
                if _fits(mask[index], lengths):
                    patches[index] = side
    found = []
    for index in np.flatnonzero(counts[0] + counts[1]):
        larger = 0 if areas[0][index] >= areas[1][index] else 1
        found.append(
            SliceAgreement(
                int(index),
                int(counts[0][index]),
                int(counts[1][index]),
                float(counts[larger][index] / areas[larger][index]),
                float(areas[larger][index] / largest[larger]),
                float(patches[index]),
            )
        )
    return tuple(found)


def _fits(mask: np.ndarray, lengths: Sequence[int]) -> bool:
    """Whether a rectangle of so many voxels lies anywhere inside a 2-D mask."""
    inside = mask.astype(np.uint8)
    for axis, length in enumerate(lengths):
        inside = minimum_filter1d(inside, length, axis=axis, mode="constant", cval=0)
    return bool(inside.any())
