"""nnU-Net's default resampling, axis by axis: the same numbers without its float64 copies of the whole scan.

nnunetv2 resamples with spline interpolation of scikit-image and SciPy, 64 products for each voxel at order 3. Spline
interpolation on a grid is linear and separable, so it is one matrix for each axis; the matrices are SciPy's own
answers to unit vectors. Only the order of the additions differs: the last bits of a float64, which the result, a
float32 or float16, does not show but for one voxel in millions, by its last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import ndimage

ANISO_THRESHOLD = 3.0
"""nnunetv2's own: slices that are so many times as thick as their voxels are wide are resampled by themselves."""
ROWS_AT_ONCE, PLANES_AT_ONCE = 48, 16
"""Rows of the result, and planes of the scan, that are in memory as float64."""
_NOTHING = 1e-18
"""Weights of a spline fall by .27 from voxel to voxel; those below this are less than float64's rounding."""

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Resampling:
    """From the grid `old` to the grid `new` (voxels of each axis), splines of the given orders along the axes.

    `separate`: the axis of thick slices, which nnU-Net resamples after the slices and by an order of its own; None:
    all axes at once.
    """

    old: Grid
    new: Grid
    orders: Grid
    separate: int | None = None

    @classmethod
    def of_plans(
        cls, options: dict[str, Any], old: Grid, new: Grid, spacing: list[float], new_spacing: list[float]
    ) -> Resampling:
        """As `resample_data_or_seg_to_shape` decides with the options that the plans give it."""
        threshold = options.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD)
        separate = _thick_axis(options.get("force_separate_z", False), threshold, spacing, new_spacing)
        order, order_z = int(options.get("order", 3)), int(options.get("order_z", 0))
        orders = tuple(order_z if number == separate else order for number in range(3))
        return cls(tuple(map(int, old)), tuple(map(int, new)), orders, separate)


def _thick_axis(force: bool | None, threshold: float, *spacings: list[float]) -> int | None:
    """The axis along which slices are so thick, in one of the spacings, that it is resampled by itself."""
    for spacing in spacings:
        if force or (force is None and max(spacing) / min(spacing) > threshold):
            thickest = [axis for axis, size in enumerate(spacing) if max(spacing) / size == 1]
            return thickest[0] if len(thickest) == 1 else None
    return None


def resample_image(image: np.ndarray, how: Resampling, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """Float32 on the new grid from float32 (k, j, i) on the old one, as nnunetv2 resamples images.

    Like there, the result keeps to the range of the values: of the scan, or of each slice where `separate` is set.
    `check` is called about every tenth of a second and raises to stop.
    """
    if how.old == how.new:
        return image
    front = how.separate or 0  # the axis of thick slices comes last, after each slice by itself
    order = (front, *(axis for axis in range(3) if axis != front))
    source = torch.from_numpy(image).permute(order).contiguous()
    result = np.empty(how.new, dtype=np.float32)
    target = torch.from_numpy(result).permute(order)
    along, rows, columns = (_matrix(how.old[axis], how.new[axis], how.orders[axis]) for axis in order)
    flat = source.flatten(1) if how.separate is not None else source.flatten()[None]
    lowest, highest = (extreme.double()[:, None, None] for extreme in torch.aminmax(flat, dim=1))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        used = some.ne(0).any(0).nonzero()
        band = slice(int(used[0]), int(used[-1]) + 1)
        slices = torch.empty((len(source), len(some), len(columns)), dtype=torch.float64)
        for first in range(0, len(source), PLANES_AT_ONCE):
            check()
            planes = slice(first, first + PLANES_AT_ONCE)
            block = source[planes, band].double()
            slices[planes] = torch.bmm(some[:, band].expand(len(block), -1, -1), block) @ columns.T
        if how.separate is None:
            slices = torch.tensordot(along, slices, dims=1) if how.old[front] != how.new[front] else slices
            target[:, start : start + ROWS_AT_ONCE] = slices.clamp_(lowest, highest)
        else:
            target[:, start : start + ROWS_AT_ONCE] = torch.tensordot(along, slices.clamp_(lowest, highest), dims=1)
    return result


@lru_cache(maxsize=16)
def _matrix(old: int, new: int, order: int) -> torch.Tensor:
    """Float64 (new, old): the interpolation of one axis, voxels covering the same extent before and after.

    What `scipy.ndimage` answers to unit vectors, the border repeated.
    """
    if old == new:
        return torch.eye(old, dtype=torch.float64)
    places = coordinates(old, new)[None]
    columns = [ndimage.map_coordinates(unit, places, order=order, mode="nearest") for unit in np.eye(old)]
    matrix = np.stack(columns, axis=1)
    return torch.from_numpy(np.where(np.abs(matrix) < _NOTHING, 0.0, matrix))


def coordinates(old: int, new: int) -> np.ndarray:
    """Where the centres of the new voxels lie among the old ones, float64 (new,)."""
    return float(old) / new * (np.arange(new) + 0.5) - 0.5
