"""Read a reference segmentation onto a scan's grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.errors import UserError
from medquant.imaging.dicom import is_dicom_file
from medquant.imaging.dicom_seg import read_dicom_seg
from medquant.imaging.itk_file import affine_of, check_readable, known_suffix, load_image, read_image
from medquant.imaging.lattice import extents_of, onto_grid
from medquant.imaging.slicer_segmentation import segments_of
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation, Structure


def read_labels(path: str | Path, volume: Volume, *, names: Mapping[int, str] | None = None) -> Segmentation:
    """Labels from `.seg.nrrd`, NIfTI, NRRD, MetaImage or DICOM SEG, on the grid of `volume`.

    Voxels that coincide with the scan's, in whatever order the file stores them, are copied exactly; a label map on
    another grid that covers the scan is resampled (nearest neighbour), and `model_name` says so. `names` gives names
    to label values where the file has none. Raises `UserError` for labels that are not whole numbers from 0 up or do
    not cover the scan.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path.name} is a folder. Give the segmentation file itself.")
    check_readable(path)
    structures: tuple[Structure, ...] = ()
    if path.name.lower().endswith(".seg.nrrd"):
        image = load_image(path, notice=False)
        labels, structures = segments_of(image)
        affine, cropped = affine_of(image), bool(structures)
    elif not known_suffix(path) and is_dicom_file(path):
        labels, affine, structures = read_dicom_seg(path)
        cropped = True  # highdicom gives the smallest stack of frames that holds all segments
    else:
        image = read_image(path, notice=False)
        labels, affine, cropped = sitk.GetArrayFromImage(image), affine_of(image), False
    labels, how = onto_grid(_whole_numbers(labels, path), affine, volume, name=path.name, cropped=cropped)
    names = dict(names or {})
    if not structures:
        structures = tuple(Structure(value, names.get(value, f"label {value}")) for value in extents_of(labels))
    else:
        structures = tuple(Structure(s.label, names.get(s.label, s.name), s.color) for s in structures)
    return Segmentation(labels, volume, structures, model_name=f"{path.name} ({how})" if how else path.name)


def _whole_numbers(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels as the smallest unsigned integer type, or an error that says what they are instead."""
    whole = np.issubdtype(labels.dtype, np.integer) or (np.isfinite(labels).all() and not (labels % 1).any())
    if not whole or labels.min() < 0:
        raise UserError(
            f"{path.name} is not a label map: its values are not all whole numbers from 0 up. "
            f"Give a segmentation, not a scan or a probability map."
        )
    if labels.max() > np.iinfo(np.uint16).max:
        raise UserError(f"{path.name} has labels above 65535. Renumber its structures from 1.")
    return labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
