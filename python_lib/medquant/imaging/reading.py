"""Read a scan: the one front door for files and DICOM folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.errors import UserError
from medquant.imaging.dicom import SeriesInfo, is_dicom_file, list_series, read_series
from medquant.imaging.itk_file import affine_of, check_readable, known_suffix, read_image
from medquant.imaging.labels import read_labels
from medquant.imaging.volume import Volume
from medquant.imaging.windows import guess_modality

__all__ = ["SeriesInfo", "list_series", "read_labels", "read_volume"]


def read_volume(
    path: str | Path, *, series: int | str | None = None, component: int | None = None, frame: int | None = None
) -> Volume:
    """Read a NIfTI, NRRD or MetaImage file, a DICOM folder, or the series that one DICOM file belongs to.

    `series` chooses among several DICOM series by number or UID (see `list_series`); `component` chooses one value
    of colour or vector voxels, `frame` one of several time points, both from 0. The array is (k, j, i) as stored,
    with rescale slope and intercept applied; the grid may have any orientation.

    Raises `UserError` for whatever cannot be read as one regular scan, saying what was found and what to do.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        check_readable(path)
    if path.is_dir() or (not known_suffix(path) and is_dicom_file(path)):
        volume = read_series(path, series=series, component=component, frame=frame)
    else:
        image = read_image(path, component=component, frame=frame)
        name = path.name[: -len(known_suffix(path))]
        array = sitk.GetArrayFromImage(image)
        volume = Volume(array, affine_of(image), name=name, modality=guess_modality(array))
    _check_finite(volume, path)
    return volume


def _check_finite(volume: Volume, path: Path) -> None:
    if not np.issubdtype(volume.array.dtype, np.floating):
        return
    bad = volume.array.size - int(np.isfinite(volume.array).sum())
    if bad:
        raise UserError(
            f"{path.name} has {bad} of {volume.array.size} voxels that are not finite numbers (NaN or infinite). "
            f"Replace them, for example by the value of air, and save the scan again."
        )
