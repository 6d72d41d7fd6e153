"""Slices of a volume as a reader sees them, whatever the order in which a file stores its voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medquant.imaging.volume import Volume

SCREEN = (((2, -1), (1, +1)), ((2, -1), (0, +1)), ((1, +1), (0, +1)))
"""The patient axis (0, 1, 2 for x, y, z of LPS) and its sense that run down a picture and to its right, for slices
across x, y and z: the radiological convention, head up and the patient's left to the right."""


@dataclass(frozen=True)
class SliceView:
    """How slices across one array axis are turned into upright pictures, and back. Views only, nothing is copied."""

    axis: int
    """The array axis (0, 1, 2 for k, j, i) that runs through the slices."""
    transposed: bool
    """Whether the rows of the picture run along the later of the two remaining array axes."""
    flip_rows: bool
    flip_columns: bool

    @classmethod
    def of(cls, volume: Volume, axis: int) -> SliceView:
        """The view of `volume` across array axis `axis`, by the nearest patient axes where it is oblique."""
        rows, columns = SCREEN[volume.patient_axes[axis]]
        row_axis, column_axis = (volume.patient_axes.index(patient) for patient, _ in (rows, columns))
        return cls(
            axis=axis,
            transposed=row_axis > column_axis,
            flip_rows=volume.senses[row_axis] != rows[1],
            flip_columns=volume.senses[column_axis] != columns[1],
        )

    def picture(self, array: np.ndarray, index: int) -> np.ndarray:
        """The slice `index` of a (k, j, i) array as rows x columns. Writing into it writes into `array`."""
        picture = np.moveaxis(array, self.axis, 0)[index]
        picture = picture.T if self.transposed else picture
        picture = picture[::-1] if self.flip_rows else picture
        return picture[:, ::-1] if self.flip_columns else picture

    def box(
        self, lower_ijk: tuple[int, int, int], upper_ijk: tuple[int, int, int], shape: tuple[int, int, int]
    ) -> tuple[int, int, int, int]:
        """An index box (corners inclusive) as (x0, y0, x1, y1) in the picture, inclusive as well."""
        lower, upper = lower_ijk[::-1], upper_ijk[::-1]  # now in array order k, j, i
        ranges = [(lower[a], upper[a], shape[a]) for a in range(3) if a != self.axis]
        rows, columns = reversed(ranges) if self.transposed else ranges
        y0, y1 = _flip(rows) if self.flip_rows else rows[:2]
        x0, x1 = _flip(columns) if self.flip_columns else columns[:2]
        return x0, y0, x1, y1


def _flip(span: tuple[int, int, int]) -> tuple[int, int]:
    first, last, size = span
    return size - 1 - last, size - 1 - first
