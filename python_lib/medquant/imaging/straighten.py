"""NIfTI headers whose axes are a rounding error off right angles, which ITK refuses: read on the nearest grid."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.imaging.lattice import corners_of

FARTHEST = 0.5
"""Voxels by which the nearest grid may move a voxel: beyond, it would lie nearer to another one's place."""
_DIMENSIONS, _SPACING, _SFORM_CODE, _SFORM = 40, 76, 254, 280
"""Where the header of NIfTI-1 has them, in bytes."""


def read_straightened(path: Path) -> tuple[sitk.Image, float] | None:
    """A NIfTI-1 file (`.nii`) on the right-angled grid nearest to that of its sform, and how far that moves voxels.

    In voxels, of the voxel that moves most. None where that is more than half of one: such a grid is sheared. Raises
    `OSError` where a copy of the file cannot be written, `RuntimeError` where SimpleITK refuses it for other reasons.
    """
    with path.open("rb") as stream:
        header = stream.read(348)
    order = "<" if struct.unpack_from("<i", header)[0] == 348 else ">"
    shape = struct.unpack_from(f"{order}3h", header, _DIMENSIONS + 2)
    spacing = np.array(struct.unpack_from(f"{order}3f", header, _SPACING + 4), np.float64)
    affine = np.vstack([np.reshape(struct.unpack_from(f"{order}12f", header, _SFORM), (3, 4)), (0, 0, 0, 1)])
    if struct.unpack_from(f"{order}h", header, _SFORM_CODE)[0] <= 0 or not np.isfinite(affine).all():
        return None
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12 or not (spacing > 0).all():
        return None
    nearest, moved = nearest_right_angled(affine, spacing, shape)
    if moved > FARTHEST:
        return None
    with tempfile.TemporaryDirectory(prefix="medquant-") as folder:
        copy = Path(folder) / "scan.nii"
        shutil.copyfile(path, copy)
        with copy.open("r+b") as stream:
            stream.seek(_SFORM)
            stream.write(struct.pack(f"{order}12f", *nearest[:3].ravel()))
        return sitk.ReadImage(str(copy)), moved


def nearest_right_angled(
    affine: np.ndarray, spacing: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, float]:
    """The grid (4x4) with axes at right angles and this spacing (i, j, k) nearest to `affine`, and its distance.

    Directions are those of the polar decomposition, the nearest in the sense of least squares; the centre of the
    volume of `shape` (i, j, k) stays where it is. The distance is that of the voxel that moves most, along the axis
    along which it does, in voxels.
    """
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    nearest = np.eye(4)
    nearest[:3, :3] = left @ right * spacing
    centre = (np.array(shape) - 1) / 2
    nearest[:3, 3] = affine[:3, 3] + (affine[:3, :3] - nearest[:3, :3]) @ centre
    corners = corners_of(shape[::-1])
    return nearest, float(np.abs(np.linalg.solve(affine, nearest @ corners) - corners).max())
