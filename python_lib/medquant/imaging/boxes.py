"""Box prompts on a scan's grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from medquant.errors import UserError
from medquant.imaging.lattice import extents_of
from medquant.imaging.volume import Volume
from medquant.prompts import Box, BoxPrompt, Plane
from medquant.segmentation import Structure

Index = tuple[int, int, int]

_PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
"""The plane of slices that are stacked along x, y and z of LPS."""

ROUNDING = 1e-6
"""Part of a voxel by which matrices may miss a face between two of them."""


def slice_axis_of(volume: Volume, plane: Plane | None = None) -> int:
    """The array axis (0, 1, 2 for k, j, i) that the slices of `plane` are stacked along.

    None: the axis of the one thickest spacing or, where the thickest two are even (within 1 %), axial. Planes of an
    oblique scan are told by `Volume.patient_axes`.
    """
    if plane is None:
        thick, axis = max((spacing, axis) for axis, spacing in enumerate(volume.spacing))
        if thick > 1.01 * sorted(volume.spacing)[1]:
            return axis
        plane = "axial"
    if plane not in _PLANES:
        raise UserError(f"There is no plane called {plane!r}. Choose axial, coronal or sagittal.")
    return volume.patient_axes.index(_PLANES.index(plane))


def plane_of(volume: Volume, slice_axis: int) -> Plane:
    """The plane whose slices are stacked along an array axis."""
    return _PLANES[volume.patient_axes[slice_axis]]


def resolve_box(box: Box, volume: Volume) -> tuple[Index, Index, int]:
    """First and last voxel (i, j, k), both inclusive, and the array axis (0, 1, 2 for k, j, i) to walk along.

    Corners are rounded to the nearest voxel and clipped to the scan; two equal ones are a box of one voxel. Raises
    `UserError` for corners that are not numbers or in the wrong order, and for a box wholly outside the scan.
    """
    corners = np.array([box.lower, box.upper], dtype=np.float64)
    if corners.shape != (2, 3) or not np.isfinite(corners).all():
        raise UserError(f"The box of {box.name} needs two corners of three numbers each. Draw it again.")
    axis = slice_axis_of(volume, box.plane)
    if box.space == "world":
        every = np.array([(*corner, 1.0) for corner in itertools.product(*corners.T)])
        index = np.linalg.solve(volume.affine, every.T)[:3]
        corners = np.array([index.min(1), index.max(1)])
    elif box.space != "ijk":
        raise UserError(f"The box of {box.name} is in an unknown space {box.space!r}. Use ijk or world.")
    elif (corners[0] > corners[1]).any():
        raise UserError(f"The box of {box.name} ends before it begins. Give the lower corner first.")
    # A face between two voxels belongs to the inner one, on either side.
    lower = np.floor(corners[0] + 0.5 + ROUNDING).astype(np.int64)
    upper = np.maximum(np.ceil(corners[1] - 0.5 - ROUNDING).astype(np.int64), lower)
    size = np.array(volume.shape[::-1])
    if (upper < 0).any() or (lower >= size).any():
        raise UserError(
            f"The box of {box.name} lies outside the scan: voxels {_shown(lower)} to {_shown(upper)}, "
            f"the scan has (0, 0, 0) to {_shown(size - 1)}. Draw it on the scan."
        )
    return _index(np.maximum(lower, 0)), _index(np.minimum(upper, size - 1)), axis


def boxes_from_labels(
    labels: np.ndarray,
    volume: Volume,
    structures: Sequence[Structure],
    *,
    per_slice: bool = False,
    margin: int = 0,
    plane: Plane | None = None,
) -> BoxPrompt:
    """The tight box around each structure of a label map (k, j, i), grown by `margin` voxels within the slice.

    One box per structure, or with `per_slice` one per structure and slice it appears on. Structures without voxels
    get no box. A structure one voxel wide gets a box of two, as a person would draw it. Raises `UserError` where no
    structure has voxels.
    """
    if labels.shape != volume.shape:
        raise UserError(
            f"The labels have {labels.shape} voxels, the scan {volume.shape}. Give labels on the scan's grid."
        )
    axis = slice_axis_of(volume, plane)
    plane = plane_of(volume, axis)
    places = _places(labels, axis, per_slice)
    boxes = []
    for structure in structures:
        for where in places.get(structure.label, ()):
            lower, upper = _grow(where, margin, 2 - axis, volume.shape[::-1])
            boxes.append(Box(lower, upper, label=structure.label, name=structure.name, plane=plane))
    if not boxes:
        raise UserError("None of the structures has a voxel in the reference. Choose structures that it shows.")
    return BoxPrompt(tuple(boxes))


def _places(labels: np.ndarray, axis: int, per_slice: bool) -> dict[int, list[tuple[slice, ...]]]:
    """The slices along (k, j, i) that hold each label: in the whole array, or in each of its slices along `axis`."""
    if not per_slice:
        return {label: [where] for label, where in extents_of(labels).items()}
    places: dict[int, list[tuple[slice, ...]]] = {}
    for number in range(labels.shape[axis]):
        for label, where in extents_of(labels.take(number, axis=axis)).items():
            along = slice(number, number + 1)
            places.setdefault(label, []).append((*where[:axis], along, *where[axis:]))
    return places


def _grow(where: tuple[slice, ...], margin: int, fixed: int, size: tuple[int, ...]) -> tuple[Index, Index]:
    """First and last index (i, j, k), grown within the slice by `margin`, to two voxels at least, within the scan."""
    low = [along.start for along in reversed(where)]
    high = [along.stop - 1 for along in reversed(where)]
    for i in range(3):
        if i == fixed:
            continue
        low[i], high[i] = max(0, low[i] - margin), min(size[i] - 1, high[i] + margin)
        if high[i] - low[i] < 1:
            low[i], high[i] = (low[i], high[i] + 1) if high[i] + 1 < size[i] else (max(0, low[i] - 1), high[i])
    return _index(low), _index(high)


def _index(values: Sequence[int]) -> Index:
    i, j, k = (int(value) for value in values)
    return i, j, k


def _shown(values: Sequence[int]) -> str:
    return str(_index(values))
