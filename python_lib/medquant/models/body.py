"""Where the body is in a scan, and which parts of it calibrate a model."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medquant.errors import UserError
from medquant.imaging.boxes import slice_axis_of
from medquant.imaging.volume import Volume
from medquant.imaging.windows import guess_modality
from medquant.models.base import CalibrationSelection
from medquant.progress import Progress

_AIR_BELOW = -300.0  # HU: above lung and fat's lower end, below every soft tissue


def is_hounsfield(volume: Volume) -> bool:
    """Whether the voxels are HU: the file says CT, or says nothing and holds values that only CT has."""
    return (volume.modality or guess_modality(volume.array)).upper() == "CT"


def require_usable(volume: Volume) -> None:
    """Raise `UserError` for voxels that are not numbers and for a scan of one value."""
    array = volume.array
    if array.size == 0:
        raise UserError(f"The scan {volume.name} has no voxels. Choose another scan.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise UserError(
            f"The scan {volume.name} holds {count} voxels that are not numbers. Replace them, or export the scan again."
        )
    if array.min() == array.max():
        raise UserError(f"All voxels of the scan {volume.name} have the same value. Choose another scan.")


def body_mask(volume: Volume, progress: Progress | None = None) -> np.ndarray:
    """Bool (k, j, i): the patient, filled, without table and air.

    CT by -300 HU, anything else by a threshold between its two classes of voxels (Otsu 1979); in every slice across
    the head-feet axis the largest piece, with its holes (lungs, gas) filled. Of `progress`, the wish to stop is heard.
    """
    array = volume.array
    threshold = _AIR_BELOW if is_hounsfield(volume) else _otsu(array) * 0.5
    mask = np.zeros(volume.shape, dtype=bool)
    slices_in, slices_out = (np.moveaxis(a, volume.slice_axis, 0) for a in (array, mask))
    for index in range(slices_in.shape[0]):
        if progress:
            progress.check()
        tissue = ndimage.binary_opening(slices_in[index] > threshold, iterations=2)
        pieces, count = ndimage.label(tissue)
        if count:
            largest = np.bincount(pieces.ravel())[1:].argmax() + 1
            slices_out[index] = ndimage.binary_fill_holes(pieces == largest)
    return mask


def choose_slices(volume: Volume, axis: int, selection: CalibrationSelection, body: np.ndarray) -> list[int]:
    """Indices of the slices across `axis` that calibrate, ascending, at most `selection.count`.

    Raises `UserError` for a count or a range that cannot be, and when no chosen slice shows two grey values.
    """
    size = volume.shape[axis]
    others = tuple(a for a in range(3) if a != axis)
    first, last = allowed_range(selection, size)
    candidates = np.arange(first, last + 1)
    if selection.where == "body":
        area = body.sum(axis=others)[candidates]
        with_body = candidates[area >= 0.25 * area.max()] if area.any() else candidates
        candidates = with_body
    low, high = volume.array.min(axis=others), volume.array.max(axis=others)
    candidates = candidates[high[candidates] > low[candidates]]
    if not candidates.size:
        raise UserError(
            f"None of the slices {first} to {last} shows more than one grey value. "
            "Choose other slices, or another scan, to calibrate with."
        )
    return evenly(candidates, selection.count)


def calibration_region(volume: Volume, selection: CalibrationSelection, progress: Progress | None = None) -> np.ndarray:
    """Bool (k, j, i): where the patches that calibrate a 3-D network may lie.

    "body": the body; "even": everywhere; "range": the body within the slices `first` to `last`, counted along the
    axis that boxes are walked through. Raises `UserError` for a range that cannot be, or that shows one grey value.
    """
    axis = slice_axis_of(volume)
    first, last = allowed_range(selection, volume.shape[axis])
    window = tuple(slice(first, last + 1) if a == axis else slice(None) for a in range(3))
    if volume.array[window].min() == volume.array[window].max():
        raise UserError(
            f"The slices {first} to {last} show one grey value only. Choose other slices, or another scan, "
            "to calibrate with."
        )
    region = np.zeros(volume.shape, dtype=bool)
    region[window] = True
    if selection.where != "even":
        inside = region & body_mask(volume, progress)
        region = inside if inside.any() else region
    return region


def choose_patches(
    region: np.ndarray, patch: tuple[int, ...], *, count: int, seed: int, axis: int = 0
) -> list[tuple[int, ...]]:
    """Corners (in array order) of `count` patches of shape `patch`, centred on voxels of `region`.

    The centres are spread evenly over the region's slices across `axis`. Every patch lies inside the array; where
    the array is smaller than the patch the corner is 0.
    """
    generator = np.random.default_rng(seed)
    positions = np.argwhere(region)
    positions = positions[np.argsort(positions[:, axis], kind="stable")]
    corners = []
    for part in np.array_split(np.arange(len(positions)), min(count, len(positions))):
        centre = positions[generator.choice(part)]
        sides = zip(centre, patch, region.shape, strict=True)
        corners.append(tuple(int(min(max(c - p // 2, 0), max(s - p, 0))) for c, p, s in sides))
    return corners


def allowed_range(selection: CalibrationSelection, size: int) -> tuple[int, int]:
    """First and last index along an axis of `size`, both inclusive. Raises `UserError` for one that cannot be."""
    if selection.count < 1:
        raise UserError(f"At least one slice is needed to calibrate, not {selection.count}. 8 is a good number.")
    if selection.where not in ("body", "even", "range"):
        raise UserError(f"Unknown choice of slices {selection.where!r}. Choose body, even or range.")
    first = 0 if selection.first is None else selection.first
    last = size - 1 if selection.last is None else selection.last
    if not 0 <= first <= last < size:
        raise UserError(f"There are no slices {first} to {last}: the scan has 0 to {size - 1}. Choose a range inside.")
    return first, last


def evenly(candidates: np.ndarray, count: int) -> list[int]:
    """At most `count` of the candidates, at the middles of as many equal parts."""
    if len(candidates) <= count:
        return [int(c) for c in candidates]
    return [int(candidates[int((part + 0.5) * len(candidates) / count)]) for part in range(count)]


def _otsu(array: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(array[:: max(1, array.shape[0] // 32)]))
