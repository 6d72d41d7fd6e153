"""Labels on the scan's grid from logits on the network's, plane by plane as they come.

nnunetv2 resamples the logits of all classes to the scan's grid, rounds them to float16 and takes the largest. Here
this happens for one plane at a time and only for classes that can win in it, so no more than a few planes are held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from medquant.models.nnunet_resampling import Resampling, coordinates

_SMALLEST_NORMAL_HALF = 2.0**-14


class Painter(Protocol):
    """Takes slabs of logits (classes, planes, rows, columns) in order along the first axis, and writes labels.

    A slab may be overwritten once `add` has returned; the labels are whole once `finish` has.
    """

    def add(self, slab: torch.Tensor) -> None: ...

    def finish(self) -> None: ...


class WholePainter:
    """Keeps all the logits and leaves them to a function: for resampling that no plane can be computed alone of."""

    def __init__(self, into: np.ndarray, convert: Callable[[torch.Tensor], np.ndarray]) -> None:
        self._into, self._convert = into, convert
        self._slabs: list[torch.Tensor] = []

    def add(self, slab: torch.Tensor) -> None:
        """The next planes."""
        self._slabs.append(slab.clone())

    def finish(self) -> None:
        """Write the labels."""
        logits = torch.cat(self._slabs, dim=1)
        self._slabs.clear()
        self._into[...] = self._convert(logits)


class PlanePainter:
    """Linear or nearest interpolation of float16 logits, then the label.

    `into`: unsigned integers (k, j, i) on the new grid, written to. `regions`: None for classes that exclude each other
    (the largest logit wins, the first of equals); otherwise the label of each region, painted one over the other
    wherever its probability is above one half. `check` is called for every plane and raises to stop.
    """

    def __init__(
        self,
        how: Resampling,
        into: np.ndarray,
        regions: tuple[int, ...] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.how, self.regions, self.check = how, regions, check
        self._labels = into
        self._planes: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._seen = self._painted = 0
        self._axes = [_neighbours(*axis) for axis in zip(how.old, how.new, how.orders, strict=True)]

    @staticmethod
    def can(how: Resampling) -> bool:
        """Whether each plane needs no more than its two neighbours, and the result never exceeds their values."""
        return max(how.orders) <= 1

    def add(self, slab: torch.Tensor) -> None:
        """The next planes: float16 (classes, planes, rows, columns)."""
        for plane in slab.unbind(1):
            # A mean of numbers below zero is below zero: only where a logit is above that of the background, or a
            # region's above zero, can the class appear between such voxels.
            candidates = (plane > 0 if self.regions else plane >= plane[:1]).flatten(1).any(1)
            self._planes[self._seen] = plane.clone(), candidates
            self._seen += 1
            self._paint_ready()

    def finish(self) -> None:
        """Nothing is left to do; raises `ValueError` where planes are missing."""
        if self._painted != len(self._labels):
            raise ValueError(f"{self._seen} of {self.how.old[0]} planes of logits came")

    def _paint_ready(self) -> None:
        before: tuple[int, int, float] | None = None
        low, high, share = self._axes[0]
        while self._painted < len(self._labels) and high[self._painted] < self._seen:
            self.check()
            place = self._painted
            source = int(low[place]), int(high[place]), float(share[place])
            self._labels[place] = self._labels[place - 1] if source == before else self._plane(*source)
            before = source
            self._painted += 1
        needed = low[self._painted] if self._painted < len(self._labels) else self._seen
        for number in [n for n in self._planes if n < needed]:
            del self._planes[number]

    def _plane(self, low: int, high: int, share: float) -> np.ndarray | int:
        first, candidates = self._planes[low]
        second, others = self._planes[high]
        chosen = (candidates | others).nonzero().flatten()
        if not len(chosen) or (not self.regions and len(chosen) == 1):
            return 0
        corners = torch.stack([first[chosen], second[chosen]], 1) if share else first[chosen][:, None]
        if share or self.how.old[1:] != self.how.new[1:]:
            values = self._interpolated(corners, share)
        else:
            values = corners[:, 0].float()
        return self._regions(values, chosen) if self.regions else self._largest(values, chosen)

    def _interpolated(self, corners: torch.Tensor, share: float) -> torch.Tensor:
        """One plane of the result, float32 rounded to float16, from one or two planes (classes, planes, ...)."""
        planes = corners[:, 0].double()
        if share:
            planes.lerp_(corners[:, 1].double(), share)
        for axis in (1, 2):
            if self.how.orders[axis] == 0 and self.how.old[axis] != self.how.new[axis]:
                planes = planes.index_select(axis, torch.from_numpy(self._axes[axis][0]))
        if planes.shape[1:] != self.how.new[1:]:
            planes = functional.interpolate(planes[None], self.how.new[1:], mode="bilinear", align_corners=False)[0]
        rounded, doubtful = rounded_to_half(planes)
        places = doubtful.nonzero(as_tuple=True)
        if len(places[0]):
            exact = self._as_scipy_adds(corners, share, places).numpy()
            rounded[places] = torch.from_numpy(exact.astype(np.float16).astype(np.float32))
        return rounded

    def _as_scipy_adds(self, corners: torch.Tensor, share: float, places: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Float64 values at `places` (class, row, column), added in the order of SciPy's loops.

        Where a value lies in the middle between two float16, and with voxels of 1.5 and 1 mm many do, the last bit
        decides how it is rounded. SciPy's second weight is what the first one leaves of 1.
        """
        number, *place = places
        ways = [((0, 1.0 - share), (1, 1.0 - (1.0 - share)))[: corners.shape[1]]]
        for axis, index in zip((1, 2), place, strict=True):
            low, high, part = (torch.from_numpy(values)[index] for values in self._axes[axis])
            ways.append(((low, 1.0 - part), (high, 1.0 - (1.0 - part))))
        total = torch.zeros(len(number), dtype=torch.float64)
        for (which, a), (row, b), (column, c) in itertools.product(*ways):
            total += corners[number, which, row, column].double() * a * b * c
        return total

    def _largest(self, values: torch.Tensor, chosen: torch.Tensor) -> np.ndarray:
        best, label = values[0].clone(), torch.full(values.shape[1:], int(chosen[0]), dtype=torch.int16)
        for value, number in zip(values[1:], chosen[1:].tolist(), strict=True):
            label.masked_fill_(value > best, number)
            torch.maximum(best, value, out=best)
        return label.numpy()

    def _regions(self, values: torch.Tensor, chosen: torch.Tensor) -> np.ndarray:
        label = torch.zeros(values.shape[1:], dtype=torch.int16)
        for value, number in zip(values, chosen.tolist(), strict=True):
            label.masked_fill_(torch.sigmoid(value) > 0.5, self.regions[number])
        return label.numpy()


def rounded_to_half(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 values rounded to float16, given as float32, and where that rounding is in doubt.

    PyTorch rounds by way of float32. Where that first rounding ends in the middle between two float16, or below
    float16's normal range, the second one may be wrong.
    """
    single = values.float()
    doubtful = ((single.view(torch.int32) & 0x1FFF) == 0x1000) | (single.abs() < _SMALLEST_NORMAL_HALF)
    return single.half().float(), doubtful


def _neighbours(old: int, new: int, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new voxel of an axis the two old ones it lies between, and the share of the second.

    Beyond the border both are the outermost voxel.
    """
    if old == new:
        index = np.arange(old)
        return index, index, np.zeros(old)
    places = coordinates(old, new)
    if order == 0:
        index = ndimage.map_coordinates(np.arange(old, dtype=float), places[None], order=0, mode="nearest")
        return index.astype(np.int64), index.astype(np.int64), np.zeros(new)
    low = np.floor(places)
    index = low.astype(np.int64)
    return index.clip(0, old - 1), (index + 1).clip(0, old - 1), places - low
