"""A slice as a radiologist looks at it, and the outlines of masks on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from contourpy import contour_generator

from medquant.imaging.volume import Volume

_POSITIVE, _NEGATIVE = "LPS", "RAI"
# For slices across L, P, S: the patient axis along the columns and down the rows, with its sign.
_SCREEN = {0: ((1, 1), (2, -1)), 1: ((0, 1), (2, -1)), 2: ((0, 1), (1, 1))}


@dataclass(frozen=True)
class View:
    """How slices along one array axis lie on the screen.

    Axial: patient right on image left, anterior up. Coronal: patient right on image left, head up. Sagittal:
    anterior on image left, head up. An oblique scan is shown along its own axes, in the nearest of the three ways.
    """

    axis: int
    plane: str
    """"axial", "coronal" or "sagittal"."""
    row_axis: int
    """The array axis that runs down the screen."""
    flip_rows: bool
    flip_columns: bool
    row_mm: float
    column_mm: float
    edges: tuple[str, str, str, str]
    """Patient sides at the left, right, top and bottom of the picture: R, L, A, P, S or I."""

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """Slice `index` of an array (k, j, i) as it is shown: rows from the top, columns from the left."""
        picture = array.take(index, axis=self.axis)
        first = min(axis for axis in range(3) if axis != self.axis)
        if self.row_axis != first:
            picture = picture.T
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def view_of(volume: Volume, axis: int | None = None) -> View:
    """The radiological view of the slices along an array axis (0, 1, 2 for k, j, i; None: head-feet)."""
    axis = volume.slice_axis if axis is None else axis
    # One patient axis for each array axis, as near as can be: rows are L, P, S, columns k, j, i.
    cosines = volume.direction[:, ::-1]
    nearest = max(permutations(range(3)), key=lambda order: sum(abs(cosines[p, a]) for a, p in enumerate(order)))
    array_axis = {patient: a for a, patient in enumerate(nearest)}
    (column_patient, column_sign), (row_patient, row_sign) = _SCREEN[nearest[axis]]
    column_axis, row_axis = array_axis[column_patient], array_axis[row_patient]
    left, right = _sides(column_patient, column_sign)
    top, bottom = _sides(row_patient, row_sign)
    return View(
        axis=axis,
        plane=("sagittal", "coronal", "axial")[nearest[axis]],
        row_axis=row_axis,
        flip_rows=cosines[row_patient, row_axis] * row_sign < 0,
        flip_columns=cosines[column_patient, column_axis] * column_sign < 0,
        row_mm=volume.spacing[row_axis],
        column_mm=volume.spacing[column_axis],
        edges=(left, right, top, bottom),
    )


def _sides(patient: int, sign: int) -> tuple[str, str]:
    low, high = _NEGATIVE[patient], _POSITIVE[patient]
    return (low, high) if sign > 0 else (high, low)


def field_of_view(
    masks: Iterable[np.ndarray], view: View, *, margin_mm: float = 25.0, aspect: float = 4 / 3, least_mm: float = 90.0
) -> tuple[slice, slice]:
    """The part of a slice around all `masks` (2-D, as shown), as rows and columns.

    Width to height is `aspect` as far as the slice has room; the whole slice where all masks are empty.
    """
    masks = list(masks)
    shape = masks[0].shape
    joint = np.logical_or.reduce(masks)
    if not joint.any():
        return slice(0, shape[0]), slice(0, shape[1])
    rows, columns = (np.flatnonzero(joint.any(axis=axis)) for axis in (1, 0))
    height = max((rows[-1] + 1 - rows[0]) * view.row_mm + 2 * margin_mm, least_mm)
    width = max((columns[-1] + 1 - columns[0]) * view.column_mm + 2 * margin_mm, least_mm)
    height, width = max(height, width / aspect), max(width, height * aspect)
    return (
        _centred((rows[0] + rows[-1] + 1) / 2, height / view.row_mm, shape[0]),
        _centred((columns[0] + columns[-1] + 1) / 2, width / view.column_mm, shape[1]),
    )


def _centred(centre: float, length: float, limit: int) -> slice:
    length = min(round(length), limit)
    start = min(max(round(centre - length / 2), 0), limit - length)
    return slice(start, start + length)


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines of a 2-D mask: arrays (points, 2) of (column, row), voxel centres at whole numbers plus a half.

    The whole picture spans 0 to its number of columns and rows. Outer borders and holes run in opposite senses.
    """
    if not mask.any():
        return []
    padded = np.pad(mask.astype(np.float32), 1)
    return [line - 0.5 for line in contour_generator(z=padded).lines(0.5)]


def outlines_of_labels(labels: np.ndarray) -> list[np.ndarray]:
    """The outlines of every label but 0 in a 2-D label map."""
    return [line for label in np.unique(labels) if label for line in outlines(labels == label)]


def runs(mask: np.ndarray) -> np.ndarray:
    """The voxels of a 2-D mask as horizontal runs: integers (runs, 3) of row, first column, number of columns."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    return np.stack([rows, starts, stops - starts], axis=1)
