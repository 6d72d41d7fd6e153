"""DICOM Segmentation objects, through highdicom."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import generate_uid

import medquant
from medquant.errors import UserError
from medquant.imaging.dicom import select_series, series_grid
from medquant.imaging.lattice import onto_grid
from medquant.imaging.terminology import Code, colors_of, describe
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation, Structure

_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_REQUIRED_BUT_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def make_dicom_seg(
    segmentation: Segmentation, source: Path, *, series: int | str | None = None, frame: int | None = None
) -> highdicom.seg.Segmentation:
    """A binary DICOM SEG of all structures on the frames of the source series.

    Patient and study come from the headers in `source`, which are read again here: a `Volume` keeps none of them.
    Raises `UserError` where `source` is not the series that was segmented.
    """
    paths, shape, affine = series_grid(select_series(source, series), frame)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    empty = [keyword for keyword in _IDENTIFIERS if not headers[0].get(keyword)]
    if empty:
        logging.getLogger(__name__).warning("The source has no %s; stand-ins were used.", ", ".join(empty))
    first = str(headers[0].file_meta.get("MediaStorageSOPInstanceUID", ""))
    headers = [_complete(header, first) for header in headers]
    grid = Volume(np.zeros(shape, np.uint8), affine, name=source.name)
    labels, how = onto_grid(segmentation.labels, segmentation.volume.affine, grid, name="The segmentation")
    if how.startswith("resampled"):
        raise UserError(
            f"The segmentation does not lie on the voxels of the series in {source.name}. "
            f"Give the DICOM series that was segmented."
        )
    structures = segmentation.structures
    numbers = np.zeros(int(max(labels.max(), *(s.label for s in structures))) + 1, np.uint16)
    numbers[[structure.label for structure in structures]] = np.arange(1, len(structures) + 1)
    model = segmentation.model_name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the style of the patient's name, which is not ours to change
            dataset = highdicom.seg.Segmentation(
                source_images=headers,
                pixel_array=highdicom.Volume(
                    numbers[labels],
                    affine[:, [2, 1, 0, 3]],
                    coordinate_system="PATIENT",
                    frame_of_reference_uid=headers[0].FrameOfReferenceUID,
                ),
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_descriptions(structures, model),
                series_instance_uid=generate_uid(),
                series_number=1000,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="MedQuantSlicer",
                manufacturer_model_name="medquant",
                software_versions=medquant.__version__,
                device_serial_number="0",
                content_description="Automatic segmentation, not for clinical use",
                series_description=(f"Segmentation by {model}" if model else "Segmentation")[:64],
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The headers in {source.name} do not allow a DICOM SEG ({error}). Write .seg.nrrd or NIfTI instead."
        ) from error
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: structures are named in any language
    return dataset


def _complete(header: pydicom.Dataset, first_instance: str) -> pydicom.Dataset:
    """A header with what every DICOM object needs, where anonymisation emptied it.

    Identifiers come from the file's own meta header, or are derived from it so that they are the same each time.
    """
    for keyword in _IDENTIFIERS:
        if not header.get(keyword):
            own = header.file_meta.get(f"MediaStorage{keyword}")
            setattr(header, keyword, own or generate_uid(entropy_srcs=[first_instance, keyword]))
    for keyword in _REQUIRED_BUT_MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _descriptions(structures: tuple[Structure, ...], model: str) -> list[SegmentDescription]:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=model[:64] or "not recorded", version=medquant.__version__, family=codes.DCM.ArtificialIntelligence
    )
    colors = colors_of(structures)
    described = []
    for number, structure in enumerate(structures, start=1):
        term = describe(structure.name)
        description = SegmentDescription(
            segment_number=number,
            segment_label=structure.name[:64],
            segmented_property_category=_dicom(term.category),
            segmented_property_type=_dicom(term.type),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=structure.name[:64],
            display_color=CIELabColor.from_rgb(*(round(255 * part) for part in colors[structure.label])),
        )
        if term.modifier is not None:
            modifier = highdicom.sr.CodedConcept.from_code(_dicom(term.modifier))
            description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
        described.append(description)
    return described


def _dicom(code: Code) -> DicomCode:
    return DicomCode(code.value, "SCT", code.meaning)


def read_dicom_seg(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[Structure, ...]]:
    """Labels (k, j, i), LPS matrix and structures of a DICOM SEG. Where segments overlap, the later one wins."""
    try:
        segmentation = highdicom.seg.segread(path)
        volume = segmentation.get_volume(combine_segments=True, skip_overlap_checks=True)
    except Exception as error:  # another kind of DICOM object, or a damaged one
        raise UserError(
            f"{path.name} is not a DICOM segmentation of one regular stack ({str(error).rstrip('.')}). "
            f"Give a DICOM SEG, .seg.nrrd or NIfTI file."
        ) from error
    structures = []
    for number in segmentation.segment_numbers:
        description = segmentation.get_segment_description(number)
        lab = description.get("RecommendedDisplayCIELabValue")
        color = tuple(part / 255 for part in CIELabColor.from_dicom_value(lab).to_rgb()) if lab else None
        structures.append(Structure(int(number), description.segment_label, color))
    return volume.array, volume.affine[:, [2, 1, 0, 3]], tuple(structures)
