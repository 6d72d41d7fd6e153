"""A slice as a radiologist looks at it, and the outlines of masks on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator

from medquant.imaging.boxes import plane_of
from medquant.imaging.volume import Volume
from medquant.models.slice_view import SCREEN, SliceView
from medquant.prompts import Plane

_POSITIVE, _NEGATIVE = "LPS", "RAI"


@dataclass(frozen=True)
class View:
    """How slices along one array axis lie on the screen.

    Axial: patient right on image left, anterior up. Coronal: patient right on image left, head up. Sagittal:
    anterior on image left, head up. An oblique scan is shown along its own axes, in the nearest of the three ways.
    """

    slices: SliceView
    plane: Plane
    row_mm: float
    column_mm: float
    edges: tuple[str, str, str, str]
    """Patient sides at the left, right, top and bottom of the picture: R, L, A, P, S or I."""

    @property
    def axis(self) -> int:
        """The array axis (0, 1, 2 for k, j, i) that runs through the slices."""
        return self.slices.axis

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """Slice `index` of an array (k, j, i) as it is shown: rows from the top, columns from the left."""
        return self.slices.picture(array, index)


def view_of(volume: Volume, axis: int | None = None) -> View:
    """The radiological view of the slices along an array axis (0, 1, 2 for k, j, i; None: head-feet)."""
    axis = volume.slice_axis if axis is None else axis
    rows, columns = SCREEN[volume.patient_axes[axis]]
    row_mm, column_mm = (volume.spacing[volume.patient_axes.index(patient)] for patient, _ in (rows, columns))
    edges = (*_sides(*columns), *_sides(*rows))
    return View(SliceView.of(volume, axis), plane_of(volume, axis), row_mm, column_mm, edges)


def _sides(patient: int, sense: int) -> tuple[str, str]:
    low, high = _NEGATIVE[patient], _POSITIVE[patient]
    return (low, high) if sense > 0 else (high, low)


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
