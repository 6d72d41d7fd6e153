"""Intensities to 0..255, as MedSAM was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medquant.errors import UserError
from medquant.imaging.volume import Volume


@dataclass(frozen=True)
class IntensityWindow:
    """A linear map from `lower`..`upper` to 0..255; voxels that are exactly 0 stay 0 with `keep_zero` (MR)."""

    lower: float
    upper: float
    keep_zero: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """uint8 array of the same shape, truncated as the authors of MedSAM do; constant images become 0.

        The input is not modified and may be one slice or the whole scan.
        """
        result = np.zeros(array.shape, np.uint8)
        if not self.upper > self.lower:
            return result
        # Slice by slice, so that a whole scan costs no copy in double precision.
        for into, part in zip(result, array) if array.ndim > 2 else ((result, array),):
            clipped = np.clip(part.astype(np.float64), self.lower, self.upper)
            into[...] = (clipped - self.lower) / (self.upper - self.lower) * 255.0
            if self.keep_zero:
                into[part == 0] = 0
        return result


def ct_window(level: float = 40.0, width: float = 400.0) -> IntensityWindow:
    """A CT window by level and width in HU. Raises `UserError` for a width that is not above 0."""
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise UserError(f"A window of level {level} and width {width} shows nothing. Give a width above 0.")
    return IntensityWindow(level - width / 2.0, level + width / 2.0)


def percentile_window(array: np.ndarray, lower: float = 0.5, upper: float = 99.5) -> IntensityWindow:
    """The window between two percentiles of the foreground, for MR and everything that is not CT.

    Foreground is what is above 0, as in MedSAM's preprocessing (Ma et al., Nature Communications 15, 654, 2024);
    where nothing is, every voxel that is not 0.
    """
    foreground = array[array > 0]
    if foreground.size == 0:
        foreground = array[array != 0]
    if foreground.size == 0:
        return IntensityWindow(0.0, 0.0, keep_zero=True)
    low, high = np.percentile(foreground, (lower, upper))
    return IntensityWindow(float(low), float(high), keep_zero=True)


def window_of(volume: Volume, level: float | None = None, width: float | None = None) -> IntensityWindow:
    """The window a scan is shown and segmented in.

    Given `level` and `width` win; else CT (by the file's word or, where it has none, by its values) gets the
    soft-tissue window (40, 400) and everything else its percentiles.
    Raises `UserError` where only one of the two is given.
    """
    if (level is None) != (width is None):
        raise UserError("A window needs a level and a width. Give both or neither.")
    if level is not None and width is not None:
        return ct_window(level, width)
    modality = volume.modality or guess_modality(volume.array)
    return ct_window() if modality == "CT" else percentile_window(volume.array)


def guess_modality(array: np.ndarray) -> str:
    """`"CT"` where the values can only be Hounsfield units, else `""`.

    Files other than DICOM do not tell. A CT has air near -1000 HU, and most of what is not air lies within fat,
    water and soft tissue (-200 to 200 HU); phase images reach as low but spread evenly, MR images do not reach so low.
    """
    sample = array.ravel()[:: max(1, array.size // 1_000_000)]
    lowest = float(sample.min())
    if not -4096 <= lowest <= -500 or float(sample.max()) < 100:
        return ""
    body = sample[sample > -500]
    return "CT" if body.size and float((np.abs(body) <= 200).mean()) >= 0.5 else ""
