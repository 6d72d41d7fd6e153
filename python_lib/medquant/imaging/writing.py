"""Write a segmentation (`.seg.nrrd`, NIfTI, NRRD, MetaImage or DICOM SEG) or a scan, whole or not at all."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.errors import UserError
from medquant.files import atomic_path
from medquant.imaging.dicom_seg import make_dicom_seg
from medquant.imaging.itk_file import affine_of, image_of, known_suffix
from medquant.imaging.lattice import extents_of, same_grid
from medquant.imaging.slicer_segmentation import header_fields
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation, Structure

SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha", ".dcm")


def save_segmentation(
    segmentation: Segmentation,
    path: str | Path,
    *,
    source: str | Path | None = None,
    series: int | str | None = None,
    frame: int | None = None,
) -> Path:
    """Write the labels on the scan's own grid; the suffix of `path` chooses the format.

    `.seg.nrrd` carries names, colours and terminology for 3D Slicer; `.nii`, `.nii.gz`, `.nrrd` and `.mha` the label
    values alone; `.dcm` is a DICOM SEG and needs `source`, the folder of the series that was segmented (`series`
    and `frame` choose in it as in `read_volume`). Labels without a name are written as "label N".

    Returns the path written. Raises `UserError` for an unknown suffix, labels that are not whole numbers from 0 to
    65535, a sheared grid, a source that was not segmented, a full disk and a folder that may not be written; no
    partial file is left.
    """
    path = Path(path).expanduser()
    suffix = known_suffix(path, SUFFIXES)
    if not suffix:
        raise UserError(f"{path.name} has no known suffix for masks. Use one of {', '.join(SUFFIXES)}.")
    segmentation = _checked(segmentation)
    if suffix == ".dcm":
        if source is None:
            raise UserError("A DICOM SEG belongs to the series it was drawn on. Give its folder as source.")
        if not segmentation.structures:
            raise UserError("A DICOM SEG needs a structure, and the mask is empty. Name one or write NIfTI instead.")
        dataset = make_dicom_seg(segmentation, Path(source).expanduser(), series=series, frame=frame)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary)
        return path
    _check_right_angles(segmentation.volume)
    image = image_of(segmentation.labels, segmentation.volume.affine)
    if suffix == ".seg.nrrd":
        for key, value in header_fields(segmentation.labels, segmentation.structures).items():
            image.SetMetaData(key, value)
    _write_whole(image, path, segmentation.volume)
    return path


def write_volume(volume: Volume, path: Path) -> None:
    """Write a scan as NIfTI, NRRD or MetaImage. Raises `UserError` as `save_segmentation` does."""
    _check_right_angles(volume)
    _write_whole(image_of(volume.array, volume.affine), path, volume)


def _checked(segmentation: Segmentation) -> Segmentation:
    """The segmentation with labels as the smallest unsigned integers, and a structure for each label there is."""
    labels = segmentation.labels
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
        raise UserError("Labels must be whole numbers from 0 to 65535. Convert the mask to a label map first.")
    named = {structure.label for structure in segmentation.structures}
    if any(not 0 < label <= np.iinfo(np.uint16).max for label in named):
        raise UserError("Structures are numbered from 1 to 65535, 0 is the background. Renumber them.")
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16, copy=False)
    extra = tuple(Structure(value, f"label {value}") for value in extents_of(labels) if value not in named)
    structures = tuple(replace(each, name=_one_line(each)) for each in segmentation.structures + extra)
    return replace(segmentation, labels=labels, structures=structures)


def _one_line(structure: Structure) -> str:
    """A name that every format can hold: DICOM splits at a backslash, NRRD at a line break, and neither takes none."""
    return " ".join(structure.name.replace("\\", "/").split()) or f"label {structure.label}"


def _check_right_angles(volume: Volume) -> None:
    if np.abs(volume.direction.T @ volume.direction - np.eye(3)).max() > 1e-4:
        raise UserError(
            f"The axes of {volume.name} are not at right angles (a sheared grid), which mask files cannot store. "
            f"Resample the scan onto right-angled axes first."
        )


def _write_whole(image: sitk.Image, path: Path, grid: Volume) -> None:
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise _write_failed(temporary) from error
        _check_written(temporary, image, grid)


def _check_written(path: Path, image: sitk.Image, grid: Volume) -> None:
    """Read the file back: the writers do not always notice a disk that fills up."""
    try:
        written = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _write_failed(path) from error
    found, meant = (sitk.GetArrayViewFromImage(each) for each in (written, image))
    if not np.array_equal(found, meant):
        raise _write_failed(path)
    if not same_grid(found.shape, affine_of(written), grid):
        raise UserError(
            f"{path.name} cannot store the position of this scan exactly. Write .seg.nrrd or .nrrd instead."
        )


def _write_failed(path: Path) -> Exception:
    """What SimpleITK does not tell: a full disk, or else an unknown cause."""
    if shutil.disk_usage(path.parent).free < 1 << 20:
        return OSError(errno.ENOSPC, "no space left")
    return UserError(f"{path.name} could not be written whole. Free some space on the disk or choose another folder.")
