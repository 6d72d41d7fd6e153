"""DICOM series and masks made to order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation
from medquant.segmentation import Segmentation, Structure

SeriesWriter = Callable[..., list[Path]]


def _write_series(
    folder: Path,
    *,
    count: int = 5,
    rows: int = 6,
    columns: int = 8,
    spacing: tuple[float, float] = (0.8, 0.7),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    origin: tuple[float, ...] = (-10.0, 20.0, 100.0),
    step: tuple[float, ...] | None = None,
    skip: tuple[int, ...] = (),
    change: Callable[[int, pydicom.Dataset], Any] = lambda number, data: None,
    first_file: int = 0,
    **elements: Any,
) -> list[Path]:
    """Write a CT series of which slice k holds the HU values 100 k + pixel number; files are named out of order."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
    step = 2.5 * normal if step is None else np.array(step)
    paths = []
    for number in range(count):
        if number in skip:
            continue
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
        data.PatientName, data.PatientID, data.Modality = "Nobody^Known", "SECRET-7", "CT"
        data.SeriesNumber, data.InstanceNumber = 3, (number * 7) % 11
        data.SeriesDescription = "Abdomen 2.5"
        data.Rows, data.Columns, data.SamplesPerPixel = rows, columns, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.ImagePositionPatient = [f"{value:.6g}" for value in np.array(origin) + number * step]
        data.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        data.PixelSpacing, data.SliceThickness = list(spacing), 2.5
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        stored = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) + np.uint16(100 * number + 1024)
        data.PixelData = stored.tobytes()
        data["PixelData"].VR = "OW"
        for keyword, value in elements.items():
            setattr(data, keyword, value)
        change(number, data)
        path = folder / f"{(number * 3) % 7}-{number + first_file}.dcm"
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def expected_voxels(count: int = 5, rows: int = 6, columns: int = 8) -> np.ndarray:
    """What `write_series` stores, in HU, (k, j, i)."""
    return np.arange(rows * columns).reshape(1, rows, columns) + 100 * np.arange(count)[:, None, None]


@pytest.fixture
def write_series() -> SeriesWriter:
    """Writes a DICOM series into a folder."""
    return _write_series


@pytest.fixture
def written_voxels() -> Callable[..., np.ndarray]:
    """The voxels that `write_series` stores."""
    return expected_voxels


@pytest.fixture
def scan() -> Volume:
    """An oblique, left-handed scan of 4 x 6 x 8 voxels."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (10, -20, 35), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag((1.0, -1.0, 1.0)) * (0.7, 0.8, 3.0)
    affine[:3, 3] = (-50, 30, 200)
    return Volume(np.zeros((4, 6, 8), np.int16), affine, name="scan")


def _draw_mask(volume: Volume, seed: int = 0) -> Segmentation:
    labels = np.random.default_rng(seed).choice([0, 1, 3, 7], volume.shape).astype(np.uint8)
    organs = (Structure(1, "spleen"), Structure(3, "Left kidney"), Structure(7, "strange thing", (0.25, 0.5, 1.0)))
    return Segmentation(labels, volume, organs, model_name="test model")


@pytest.fixture(scope="session")
def draw_mask() -> Callable[..., Segmentation]:
    """Draws a random mask of the structures 1, 3 and 7 on a scan."""
    return _draw_mask


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Tries to save a segmentation, and gives the message by which it is refused."""

    def try_to_save(path: Path, segmentation: Segmentation, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            save_segmentation(segmentation, path, **options)
        return str(caught.value)

    return try_to_save
