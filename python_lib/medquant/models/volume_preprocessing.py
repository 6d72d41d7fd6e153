"""From a scan to the input of a patch-wise network, and back: direction, voxel size, grey values, order of axes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.orientation import Reorientation


@dataclass(frozen=True)
class VolumePreprocessing:
    """From a scan to a network's input; the defaults hand the voxels over as they are."""

    orientation: str | None = None
    """Directions of i, j, k, such as "RAS"; None: as stored."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size in mm along (k, j, i) after the orientation; None: the scan's own."""
    intensity: Literal["none", "range", "zscore", "nonzero-zscore"] = "none"
    """A linear "range", or mean 0 and deviation 1 over all voxels or over those that are not 0."""
    source_range: tuple[float, float] = (-175.0, 250.0)
    """For "range": what goes to `target_range`; outside it is clipped."""
    target_range: tuple[float, float] = (0.0, 1.0)
    axes: Literal["kji", "ijk"] = "ijk"
    """The order of the network's spatial axes; MONAI's own loaders give ijk."""
    side: int | None = None
    """Rows and columns of every slice (by cubic splines), for networks of slices; None: as the spacing gives them."""

    def __post_init__(self) -> None:
        for name in ("spacing", "source_range", "target_range"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(float(v) for v in value))
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise UserError(f"The spacing {self.spacing} is not three sizes above 0. Give mm along k, j and i.")
        if self.source_range[0] >= self.source_range[1]:
            raise UserError(f"The intensity range {self.source_range} is empty. Give the lower end first.")
        if self.side is not None and (self.axes != "kji" or self.spacing is not None or self.side < 1):
            raise UserError("A side above 0 goes with the axes kji and without a spacing. Leave one of them out.")
        for name, known in (("intensity", ("none", "range", "zscore", "nonzero-zscore")), ("axes", ("kji", "ijk"))):
            if getattr(self, name) not in known:
                raise UserError(f"Unknown {name} {getattr(self, name)!r}. Choose one of {', '.join(known)}.")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VolumePreprocessing:
        """From plain data. Raises `UserError` on unknown entries."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            known = ", ".join(f.name for f in fields(cls))
            raise UserError(f"Unknown preprocessing: {', '.join(sorted(unknown))}. Known: {known}.")
        return cls(**data)

    def apply(self, volume: Volume) -> tuple[torch.Tensor, Reorientation]:
        """The network's input (1, *spatial), float32, and how the scan was turned for it."""
        turned = Reorientation.to(volume, self.orientation) if self.orientation else Reorientation()
        array = _scaled(turned.apply(volume.array).astype(np.float32), self)
        if self.side is not None:
            return self.spatial(_with_side(array, self.side)), turned
        data = self.spatial(array)
        if self.spacing is not None:
            own = np.array(volume.spacing)[list(turned.order)]
            shape = [max(1, round(n * s / t)) for n, s, t in zip(array.shape, own, self.spacing, strict=True)]
            data = resized(data, tuple(shape[::-1] if self.axes == "ijk" else shape), "trilinear")
        return data, turned

    def spatial(self, array: np.ndarray) -> torch.Tensor:
        """An array (k, j, i), turned already, as a tensor (1, *spatial)."""
        return torch.from_numpy(np.ascontiguousarray(array.T if self.axes == "ijk" else array))[None]

    def labels(self, logits: torch.Tensor, volume: Volume, turned: Reorientation) -> np.ndarray:
        """Labels (k, j, i) on the volume's own grid from logits (classes, *spatial); logits are resampled, not labels.

        The largest logit, or above zero where there is one class.
        """
        shape = tuple(np.array(volume.shape)[list(turned.order)])
        logits = resized(logits, shape[::-1] if self.axes == "ijk" else shape, "trilinear")
        labels = (logits.argmax(0) if logits.shape[0] > 1 else logits[0] > 0).numpy()
        return turned.undo(labels.T if self.axes == "ijk" else labels)


def resized(data: torch.Tensor, shape: tuple[int, ...], mode: str) -> torch.Tensor:
    """(channels, *spatial) on a grid of `shape` over the same extent."""
    if tuple(data.shape[1:]) == tuple(shape):
        return data
    return nn.functional.interpolate(data[None], size=tuple(int(n) for n in shape), mode=mode)[0]


def _scaled(array: np.ndarray, settings: VolumePreprocessing) -> np.ndarray:
    """Intensities as the settings ask; `array` is the caller's to lose."""
    if settings.intensity == "range":
        (low, high), (black, white) = settings.source_range, settings.target_range
        np.clip(array, low, high, out=array)
        return (array - low) / (high - low) * (white - black) + black
    if settings.intensity == "none":
        return array
    chosen = array != 0 if settings.intensity == "nonzero-zscore" else np.ones(array.shape, dtype=bool)
    values = array[chosen]
    deviation = float(values.std()) if values.size else 0.0
    if deviation > 0:
        array[chosen] = (values - values.mean()) / deviation
    return array


def _with_side(array: np.ndarray, side: int) -> np.ndarray:
    """Every slice of an array (k, j, i) with `side` rows and columns, by cubic splines."""
    factors = (side / array.shape[1], side / array.shape[2])
    return np.stack([ndimage.zoom(rows, factors, order=3) for rows in array])
