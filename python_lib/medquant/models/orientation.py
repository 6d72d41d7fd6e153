"""A volume's axes in another order and sense, and back: no voxel is interpolated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medquant.errors import UserError
from medquant.imaging.volume import Volume

# Patient axis (0, 1, 2 for x, y, z of LPS) and sense of each letter.
_LETTERS = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "I": (2, -1), "S": (2, 1)}


@dataclass(frozen=True)
class Reorientation:
    """Array axes taken in `order`, then those of `flips` reversed."""

    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[int, ...] = ()

    @classmethod
    def to(cls, volume: Volume, code: str) -> Reorientation:
        """What brings `volume` to `code`, the directions in which i, j and k run, such as "RAS" or "LPS".

        Oblique volumes go by `Volume.patient_axes`. Raises `UserError` for what is no such code.
        """
        code = str(code).upper()
        wanted = [_LETTERS.get(letter) for letter in reversed(code)]  # k, j, i
        if None in wanted or sorted(axis for axis, _ in wanted) != [0, 1, 2]:
            raise UserError(f"{code!r} is no orientation. Give three letters such as RAS or LPS.")
        order = tuple(volume.patient_axes.index(axis) for axis, _ in wanted)
        flips = tuple(new for new, (_, sense) in enumerate(wanted) if volume.senses[order[new]] != sense)
        return cls(order, flips)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of an array (k, j, i) in the new order."""
        return np.flip(array.transpose(self.order), self.flips)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `apply`."""
        return np.flip(array, self.flips).transpose(np.argsort(self.order))

    def volume(self, volume: Volume) -> Volume:
        """The same scan with its array in the new order: every voxel keeps its place in the patient."""
        columns = volume.affine[:, [2, 1, 0]][:, list(self.order)]  # of the new k, j, i
        origin = volume.affine[:, 3].copy()
        for axis in self.flips:
            origin += columns[:, axis] * (volume.shape[self.order[axis]] - 1)
            columns[:, axis] = -columns[:, axis]
        affine = np.column_stack([columns[:, ::-1], origin])
        return Volume(self.apply(volume.array), affine, volume.name, volume.modality)
