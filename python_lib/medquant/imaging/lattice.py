"""Bring a label map from its own grid onto a scan's grid, to the voxel."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

from medquant.errors import UserError
from medquant.imaging.volume import Volume

_TOLERANCE = 0.05
"""Voxels by which corners may differ and still be the same voxel: files store positions in single precision."""


def extents_of(labels: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """Where each label of an integer or boolean array lies: the slices, one per axis, that hold all of its voxels."""
    labels = labels.view(np.uint8) if labels.dtype == bool else labels
    return {label: where for label, where in enumerate(ndimage.find_objects(labels), start=1) if where}


def corners_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Indices (i, j, k, 1) of the eight corner voxels of an array (k, j, i); columns, 4x8."""
    ranges = [(0, size - 1) for size in reversed(shape)]
    return np.array([(*corner, 1) for corner in itertools.product(*ranges)], dtype=np.float64).T


def same_grid(shape: tuple[int, int, int], affine: np.ndarray, volume: Volume) -> bool:
    """Whether an array of `shape` with `affine` lies voxel on voxel on the volume, in the same order."""
    corners = corners_of(volume.shape)
    moved = np.linalg.solve(affine, volume.affine @ corners)
    return tuple(shape) == volume.shape and bool(np.abs(moved - corners).max() <= _TOLERANCE)


def onto_grid(
    labels: np.ndarray, affine: np.ndarray, volume: Volume, *, name: str, cropped: bool = False
) -> tuple[np.ndarray, str]:
    """Labels (k, j, i) with a 4x4 LPS `affine` brought onto the volume's grid, and a word on how.

    Voxels that coincide, however the axes are flipped or permuted, are copied exactly. With `cropped`, voxels of the
    same lattice that the label map leaves out are background. Any other grid is resampled (nearest neighbour) where
    it covers the volume. Raises `UserError` where it does not.
    """
    if same_grid(labels.shape, affine, volume):
        return labels, ""
    to_labels = np.linalg.solve(affine, volume.affine)  # index in the volume -> index in the label map
    steps = np.rint(to_labels)
    corners = corners_of(volume.shape)
    same_lattice = np.abs((to_labels - steps) @ corners).max() <= _TOLERANCE
    if same_lattice and _is_signed_permutation(steps[:3, :3]):
        moved, complete = _copy_voxels(labels, steps.astype(int), volume.shape)
        if complete:
            return moved, "reoriented to the scan's voxels"
        if cropped and (moved.any() or not labels.any()):
            return moved, "cropped grid filled up with background"
    at = (to_labels @ corners)[:3]
    outside = np.maximum(-0.5 - at, at - (np.array(labels.shape[::-1])[:, None] - 0.5)).max()
    if outside > (0.0 if same_lattice else 0.5):
        raise UserError(
            f"{name} does not cover the scan {volume.name}: it ends {max(1, round(outside))} of its voxels short. "
            f"Give labels that were drawn on this scan."
        )
    return _resample(labels, affine, volume), "resampled to the scan's grid, nearest neighbour"


def _is_signed_permutation(matrix: np.ndarray) -> bool:
    size = np.abs(matrix)
    return bool((size.sum(0) == 1).all() and (size.sum(1) == 1).all() and size.max() == 1)


def _copy_voxels(labels: np.ndarray, steps: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, bool]:
    """Copy voxel by voxel along a signed permutation; also whether every voxel of the target was there."""
    order = np.abs(steps[:3, :3]).argmax(0)  # the label axis that runs along each axis (i, j, k) of the target
    source = labels.T.transpose(order)
    target = np.zeros(shape[::-1], labels.dtype)
    into, out_of = [], []
    for axis, size in enumerate(target.shape):
        index = steps[order[axis], axis] * np.arange(size) + steps[order[axis], 3]
        inside = (index >= 0) & (index < source.shape[axis])
        into.append(np.flatnonzero(inside))
        out_of.append(index[inside])
    target[np.ix_(*into)] = source[np.ix_(*out_of)]
    complete = all(len(index) == size for index, size in zip(into, target.shape))
    return np.ascontiguousarray(target.T), complete


def _resample(labels: np.ndarray, affine: np.ndarray, volume: Volume) -> np.ndarray:
    # Imported here: SimpleITK takes 90 MB, which a process that reads no file need not hold.
    import SimpleITK as sitk

    from medquant.imaging.itk_file import image_of

    source = image_of(labels, affine)
    moved = sitk.Resample(
        source,
        volume.shape[::-1],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        volume.origin.tolist(),
        volume.spacing[::-1],
        volume.direction.ravel().tolist(),
        0,
        source.GetPixelID(),
    )
    return sitk.GetArrayFromImage(moved)
