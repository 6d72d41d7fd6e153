"""A scan in memory: an array and where it lies in the patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Volume:
    """A three-dimensional scan.

    `array` has shape (k, j, i) and is a read-only view: nothing here modifies the caller's voxels.
    `affine` is 4x4 and maps the index (i, j, k, 1) to millimetres in LPS, the convention of DICOM and SimpleITK
    (RAS, the convention of MRML and NIfTI, is one function away: `ras_affine`). Any direction is allowed, oblique
    and left-handed included. `modality` is "CT", "MR" or "" where the file does not tell.
    """

    array: np.ndarray
    affine: np.ndarray
    name: str = "volume"
    modality: str = ""

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise ValueError(f"a volume needs three dimensions, this array has {self.array.ndim}")
        view = self.array.view()
        view.flags.writeable = False
        object.__setattr__(self, "array", view)
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("the index-to-world matrix must be an invertible 4x4 matrix of finite numbers")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (k, j, i)."""
        return self.array.shape

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along (k, j, i), the order of the array's axes."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[2]), float(lengths[1]), float(lengths[0])

    @cached_property
    def direction(self) -> np.ndarray:
        """3x3 direction cosines, columns i, j, k, in LPS."""
        return self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def origin(self) -> np.ndarray:
        """World position (LPS, mm) of the centre of voxel (0, 0, 0)."""
        return self.affine[:3, 3]

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @cached_property
    def ras_affine(self) -> np.ndarray:
        """The index-to-world matrix in RAS, as MRML and NIfTI have it."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine

    @cached_property
    def patient_axes(self) -> tuple[int, int, int]:
        """The patient axis (0, 1, 2 for x, y, z of LPS) that each array axis (k, j, i) runs most nearly along.

        No two array axes share one, however oblique the scan: the pair that is best aligned comes first, then the
        best of what is left, as in ITK. Whatever speaks of axial, coronal or sagittal goes by this.
        """
        alignment = np.abs(self.direction[:, ::-1].T)  # rows k, j, i; columns x, y, z
        nearest = [0, 0, 0]
        for _ in range(3):
            axis, patient = np.unravel_index(alignment.argmax(), alignment.shape)
            nearest[axis] = int(patient)
            alignment[axis], alignment[:, patient] = -1.0, -1.0
        return nearest[0], nearest[1], nearest[2]

    @cached_property
    def senses(self) -> tuple[int, int, int]:
        """Whether each array axis (k, j, i) runs along its patient axis (1) or against it (-1)."""
        k, j, i = (1 if self.direction[patient, 2 - axis] > 0 else -1 for axis, patient in enumerate(self.patient_axes))
        return k, j, i

    @property
    def slice_axis(self) -> int:
        """The array axis (0, 1, 2 for k, j, i) of axial slices: the one along the patient's head-feet line."""
        return self.patient_axes.index(2)

    def content_hash(self) -> str:
        """SHA-256 over voxels and geometry: tells one scan from another without naming a patient."""
        digest = hashlib.sha256()
        digest.update(str((self.array.dtype.str, self.shape)).encode())
        digest.update(np.ascontiguousarray(self.array).tobytes())
        digest.update(np.ascontiguousarray(self.affine).tobytes())
        return digest.hexdigest()

    def with_array(self, array: np.ndarray) -> Volume:
        """Another array of the same shape on this volume's grid."""
        if array.shape != self.shape:
            raise ValueError(f"array of shape {array.shape} does not fit the grid {self.shape}")
        return replace(self, array=array)
