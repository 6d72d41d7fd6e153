"""DICOM series in a folder: list them, choose one, read it as one regular scan."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import apply_modality_lut, get_decoder

from medquant.errors import UserError
from medquant.imaging.dicom_geometry import Slice, arrange
from medquant.imaging.volume import Volume

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "AcquisitionNumber", "InstanceNumber",
]  # fmt: skip
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a DICOM folder, as a person chooses it."""

    number: int
    """What to give as `series`: the DICOM series number or, where those are missing or repeated, its place here."""
    uid: str
    description: str
    modality: str
    count: int
    """Images in the series."""
    size: str
    """Columns x rows, "mixed" where images differ."""
    usable: bool
    """Whether its images say where they lie in the patient; secondary captures do not."""
    slices: tuple[Slice, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        note = "" if self.usable else ", secondary capture: no position in the patient"
        return (
            f"{self.number}: {self.description or 'no description'} "
            f"({self.modality or 'unknown'}, {self.count} images of {self.size}{note}) {self.uid or 'without a UID'}"
        )


def is_dicom_file(path: Path) -> bool:
    """Whether the file's name or its magic word says DICOM."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def list_series(folder: str | Path) -> list[SeriesInfo]:
    """The image series in a folder and its subfolders, by series number.

    Raises `UserError` where the folder is missing or empty or holds no DICOM image.
    """
    return _series_in(Path(folder).expanduser())[0]


def select_series(path: Path, series: int | str | None = None) -> SeriesInfo:
    """The series to read from a folder, or the one that a single DICOM file belongs to.

    Without `series` there must be one series of images with a position. Raises `UserError` with the list of series
    where there are several, and where a file of the folder is broken.
    """
    folder, wanted = path, series
    if path.is_file():
        folder = path.parent
        alone = _read_slice(path)
        if alone is None:
            raise UserError(
                f"{path.name} holds no scan, but a report, a segmentation or a dose. Give an image of the scan."
            )
        if series is None:
            wanted = alone.series_uid
    found, broken = _series_in(folder)
    if broken:
        raise UserError(
            f"{broken[0].name} is broken ({len(broken)} such {'file' if len(broken) == 1 else 'files'} in "
            f"{folder.name}). Export it again, or remove it if it does not belong to the scan."
        )
    return _choose(found, wanted, folder)


def read_series(
    path: Path, *, series: int | str | None = None, component: int | None = None, frame: int | None = None
) -> Volume:
    """Read one series as a volume, rescale slope and intercept applied, slices sorted by position.

    The volume carries no patient data. Raises `UserError` as `select_series` and `arrange` do, and naming the file
    whose pixels cannot be decoded.
    """
    chosen = select_series(path, series)
    name = chosen.description or (path.parent if path.is_file() else path).name
    modality = {"CT": "CT", "MR": "MR"}.get(chosen.modality, "")
    if any(each.frames > 1 for each in chosen.slices):
        array, affine = _read_multiframe(chosen)
        return Volume(array, affine, name=name, modality=modality)
    slices, affine = arrange(chosen.slices, frame)
    array = None
    for number, each in enumerate(slices):
        pixels = _pixels(each, component)
        if array is None:
            array = np.zeros((len(slices), *pixels.shape), pixels.dtype)
        array = array.astype(np.result_type(array, pixels), copy=False)
        array[number] = pixels
    return Volume(array, affine, name=name, modality=modality)


def series_grid(chosen: SeriesInfo, frame: int | None = None) -> tuple[list[Path], tuple[int, int, int], np.ndarray]:
    """Files of a series in slice order, shape (k, j, i) and LPS matrix of the grid that `read_series` gives it."""
    if any(each.frames > 1 for each in chosen.slices):
        path = _only_file(chosen)
        geometry = _regular(path, lambda: highdicom.imread(path).get_volume_geometry())
        return [path], geometry.spatial_shape, geometry.affine[:, [2, 1, 0, 3]]
    slices, affine = arrange(chosen.slices, frame)
    return [each.path for each in slices], (len(slices), slices[0].rows, slices[0].columns), affine


def _series_in(folder: Path) -> tuple[list[SeriesInfo], list[Path]]:
    """Image series below a folder, and the files that should be DICOM and cannot be read."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Check the path for a typing error.")
    groups: dict[str, list[Slice]] = {}
    broken: list[Path] = []
    try:
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        for path in files:
            if not is_dicom_file(path):
                continue
            try:
                header = _read_slice(path)
            except UserError:
                broken.append(path)
                continue
            if header is not None:
                groups.setdefault(header.series_uid, []).append(header)
    except OSError as error:
        raise UserError(
            f"Cannot read {folder}: {error.strerror or error}. Check that you may open its files."
        ) from error
    if not groups and broken:
        raise UserError(f"{broken[0].name} is broken, and {folder.name} holds no other image. Export it again.")
    if not groups:
        what = f"none of its {len(files)} files is a DICOM image" if files else "it is empty"
        raise UserError(f"There is no DICOM series in {folder}: {what}. Give the folder that holds the images.")
    numbers = [slices[0].series_number for slices in groups.values()]
    own = len(set(numbers)) == len(numbers) and None not in numbers
    ordered = sorted(groups.items(), key=lambda item: (item[1][0].series_number or 0, item[0]))
    found = [_info(slices, slices[0].series_number if own else n) for n, (_, slices) in enumerate(ordered, start=1)]
    return found, broken


def _info(slices: list[Slice], number: int) -> SeriesInfo:
    sizes = {f"{each.columns} x {each.rows}" for each in slices}
    return SeriesInfo(
        number=number,
        uid=slices[0].series_uid,
        description=slices[0].description,
        modality=slices[0].modality,
        count=sum(each.frames for each in slices),
        size=sizes.pop() if len(sizes) == 1 else "mixed sizes",
        usable=any((each.has_geometry or each.frames > 1) and not each.secondary_capture for each in slices),
        slices=tuple(slices),
    )


def _choose(found: list[SeriesInfo], wanted: int | str | None, folder: Path) -> SeriesInfo:
    listing = "\n".join(f"  {info}" for info in found)
    if wanted is None:
        usable = [info for info in found if info.usable]
        if len(usable) == 1 or len(found) == 1:
            return (usable or found)[0]
        if not usable:
            raise UserError(
                f"{folder.name} holds only secondary captures, which have no position in the patient. "
                f"Give the original CT or MR series.\n{listing}"
            )
        raise UserError(
            f"{folder.name} holds {len(found)} series. Choose one by its number or UID with --series:\n{listing}"
        )
    matches = [info for info in found if str(wanted) in (str(info.number), info.uid)]
    if not matches:
        raise UserError(f"{folder.name} holds no series {wanted}. Choose one of these by number or UID:\n{listing}")
    return matches[0]


def _read_slice(path: Path) -> Slice | None:
    """The header of one image; None for DICOM files that hold no image of a scan (reports, segmentations)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        meta = data.file_meta
        sop_class = str(data.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID", ""))
        if not sop_class:
            raise ValueError("no SOP class")
        storage = pydicom.uid.UID(sop_class).name  # the UID itself where it is a vendor's own
        if "Image Storage" not in storage and storage != sop_class:
            return None
        return Slice(
            path=path,
            instance_uid=str(data.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID", path)),
            series_uid=str(data.get("SeriesInstanceUID") or ""),
            series_number=None if data.get("SeriesNumber") is None else int(data.SeriesNumber),
            description=str(data.get("SeriesDescription") or ""),
            modality=str(data.get("Modality") or ""),
            rows=int(data.Rows),
            columns=int(data.Columns),
            frames=int(data.get("NumberOfFrames") or 1),
            secondary_capture=f"{sop_class}.".startswith(_SECONDARY_CAPTURE),
            position=_numbers(data, "ImagePositionPatient"),
            orientation=_numbers(data, "ImageOrientationPatient"),
            spacing=_numbers(data, "PixelSpacing"),
            thickness=abs(float(data.get("SpacingBetweenSlices") or data.get("SliceThickness") or 1.0)),
            order=(int(data.get("AcquisitionNumber") or 0), int(data.get("InstanceNumber") or 0)),
        )
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the parser
        logging.getLogger(__name__).debug("%s: %s", path, error)
        raise UserError(
            f"{path.name} is broken or not DICOM: its header cannot be read. Give the original or export it again."
        ) from error


def _numbers(data: pydicom.Dataset, keyword: str) -> tuple[float, ...] | None:
    return tuple(float(value) for value in data.get(keyword) or ()) or None


def _pixels(header: Slice, component: int | None) -> np.ndarray:
    """Rescaled pixels of one image (rows, columns): int16 where all values fit, else float32."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(header.path)
            if _can_decode(data.file_meta.TransferSyntaxUID):
                pixels = apply_modality_lut(data.pixel_array, data)
            else:
                pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(header.path)))[0]
    except Exception as error:  # every decoder fails in its own way
        logging.getLogger(__name__).debug("%s: %s", header.path, error)
        raise UserError(f"The pixels of {header.path.name} are broken or cut short. Export the file again.") from error
    if pixels.ndim == 3:
        if component is None or not 0 <= component < pixels.shape[2]:
            raise UserError(
                f"{header.path.name} is a colour image with {pixels.shape[2]} values per pixel. "
                f"Pick one with component=0 to component={pixels.shape[2] - 1}."
            )
        pixels = pixels[..., component]
    whole = np.issubdtype(pixels.dtype, np.integer) or not (pixels % 1).any()
    fits = whole and pixels.min() >= -32768 and pixels.max() <= 32767
    return pixels.astype(np.int16 if fits else np.float32)


def _can_decode(transfer_syntax: pydicom.uid.UID) -> bool:
    """Whether pydicom has a decoder installed; SimpleITK brings GDCM's own for the rest."""
    if not transfer_syntax.is_compressed:
        return True
    try:
        return get_decoder(transfer_syntax).is_available
    except NotImplementedError:
        return False


def _read_multiframe(chosen: SeriesInfo) -> tuple[np.ndarray, np.ndarray]:
    """Array (k, j, i) and LPS matrix of an enhanced (multi-frame) image."""
    path = _only_file(chosen)
    volume = _regular(path, lambda: highdicom.imread(path).get_volume(dtype=np.float32))
    return volume.array, volume.affine[:, [2, 1, 0, 3]]


def _only_file(chosen: SeriesInfo) -> Path:
    if len(chosen.slices) > 1:
        names = ", ".join(each.path.name for each in chosen.slices[:4])
        raise UserError(f"The series has {len(chosen.slices)} multi-frame files ({names}). Give a folder with one.")
    return chosen.slices[0].path


def _regular(path: Path, read: Callable[[], Any]) -> Any:
    """What highdicom makes of a multi-frame file, or an error where its frames form no stack."""
    try:
        found = read()
    except Exception as error:  # a damaged file can fail anywhere
        logging.getLogger(__name__).debug("%s: %s", path, error)
        found = None
    if found is None:
        raise UserError(f"The frames of {path.name} form no regular stack. Export them as single slices.")
    # Left-handed along (k, j, i) is right-handed along (i, j, k), as `arrange` has it.
    return found.ensure_handedness("LEFT_HANDED", flip_axis=0)
