"""DICOM SEG: voxel by voxel on the source series, with its patient, terms and references."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from medquant.cli import app
from medquant.errors import UserError
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation
from medquant.segmentation import Segmentation, Structure


def _names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("oblique", [False, True])
def test_dicom_seg_comes_back_to_the_voxel(
    tmp_path: Path, write_series: Callable, oblique: bool, draw_mask: Callable
) -> None:
    turn = Rotation.from_euler("xyz", (12, -25, 40) if oblique else (0, 0, 0), degrees=True).as_matrix()
    write_series(tmp_path / "ct", orientation=(*turn[:, 0], *turn[:, 1]))
    before = draw_mask(read_volume(tmp_path / "ct"))
    path = save_segmentation(before, tmp_path / "mask.dcm", source=tmp_path / "ct")
    after = read_labels(path, before.volume)
    for number, structure in enumerate(before.structures, start=1):
        assert np.array_equal(after.labels == number, before.mask(structure))
        assert after.structures[number - 1].name == structure.name
    assert np.allclose(after.structures[2].color, (0.25, 0.5, 1.0), atol=0.02)
    assert _names_in(tmp_path) == ["ct", "mask.dcm"]


def test_dicom_seg_carries_patient_terms_and_references(
    tmp_path: Path, write_series: Callable, draw_mask: Callable
) -> None:
    sources = {str(pydicom.dcmread(p).SOPInstanceUID) for p in write_series(tmp_path / "ct")}
    segmentation = draw_mask(read_volume(tmp_path / "ct"))
    path = save_segmentation(segmentation, tmp_path / "mask.dcm", source=tmp_path / "ct")
    data = highdicom.seg.segread(path)
    assert data.PatientID == "SECRET-7"
    assert data.segmentation_type == highdicom.seg.SegmentationTypeValues.BINARY
    kidney = data.get_segment_description(2)
    assert kidney.segmented_property_type.value == "64033007"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeValue == "7771000"
    assert kidney.algorithm_identification[0].AlgorithmName == "test model"
    referenced = {
        item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for item in data.PerFrameFunctionalGroupsSequence
    }
    assert referenced == sources


def test_an_exported_mask_does_not_carry_the_name_of_its_file(
    tmp_path: Path, write_series: Callable, draw_mask: Callable
) -> None:
    write_series(tmp_path / "ct")
    mask = save_segmentation(draw_mask(read_volume(tmp_path / "ct")), tmp_path / "mueller_hans.seg.nrrd")
    words = ["export-mask", mask, "--to", "dicom-seg", "--volume", tmp_path / "ct", "--output", tmp_path / "m.dcm"]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert b"mueller" not in (tmp_path / "m.dcm").read_bytes()
    data = highdicom.seg.segread(tmp_path / "m.dcm")
    assert data.SeriesDescription == "Segmentation"
    assert data.get_segment_description(1).algorithm_identification[0].AlgorithmName == "not recorded"


@pytest.mark.parametrize("name", ["mask.dcm", "mask.seg.nrrd"])
def test_any_name_survives(tmp_path: Path, write_series: Callable, name: str, draw_mask: Callable) -> None:
    write_series(tmp_path / "ct", SpecificCharacterSet="ISO_IR 100", PatientName="Größe^Jürgen")
    volume = read_volume(tmp_path / "ct")
    written = (Structure(1, "left\\right\nlobe: a|b"), Structure(3, ""), Structure(7, "Milz, größer 肝"))
    before = Segmentation(draw_mask(volume).labels, volume, written, model_name="größer")
    path = save_segmentation(before, tmp_path / name, source=tmp_path / "ct")
    names = [each.name for each in read_labels(path, volume).structures]
    assert names == ["left/right lobe: a|b", "label 3", "Milz, größer 肝"]
    if path.suffix == ".dcm":
        assert str(pydicom.dcmread(path).PatientName) == "Größe^Jürgen"


@pytest.mark.parametrize("where", [(2,), (0, 4), ()])
def test_dicom_seg_with_few_slices_or_none(tmp_path: Path, write_series: Callable, where: tuple[int, ...]) -> None:
    write_series(tmp_path / "ct")
    volume = read_volume(tmp_path / "ct")
    labels = np.zeros(volume.shape, np.uint8)
    for number in where:
        labels[number, 1:4, 2:6] = 1
    path = save_segmentation(
        Segmentation(labels, volume, (Structure(1, "liver"),)), tmp_path / "m.dcm", source=tmp_path / "ct"
    )
    assert np.array_equal(read_labels(path, volume).labels, labels)


def test_dicom_seg_of_a_mask_drawn_on_the_nifti_copy(
    tmp_path: Path, write_series: Callable, draw_mask: Callable
) -> None:
    write_series(tmp_path / "ct")
    original = read_volume(tmp_path / "ct")
    flipped = original.affine.copy()
    flipped[:3, 3] += flipped[:3, 1] * (original.shape[1] - 1)
    flipped[:3, 1] *= -1
    copy = Volume(original.array[:, ::-1], flipped)
    path = save_segmentation(draw_mask(copy), tmp_path / "m.dcm", source=tmp_path / "ct")
    found = read_labels(path, original).labels
    assert np.array_equal(np.array([0, 1, 3, 7])[found], draw_mask(copy).labels[:, ::-1])


def test_dicom_seg_refuses_another_source(
    tmp_path: Path, write_series: Callable, draw_mask: Callable, refused: Callable
) -> None:
    write_series(tmp_path / "ct")
    write_series(tmp_path / "other", origin=(-9.5, 20.3, 101.0))
    segmentation = draw_mask(read_volume(tmp_path / "ct"))
    message = refused(tmp_path / "m.dcm", segmentation, source=tmp_path / "other")
    assert "does not lie on the voxels of the series" in message
    assert "no folder" in refused(tmp_path / "m.dcm", segmentation, source=tmp_path / "gone")
    assert _names_in(tmp_path) == ["ct", "other"]


def test_dicom_seg_on_a_full_disk(
    tmp_path: Path, write_series: Callable, monkeypatch: pytest.MonkeyPatch, draw_mask: Callable, refused: Callable
) -> None:
    write_series(tmp_path / "ct")
    segmentation = draw_mask(read_volume(tmp_path / "ct"))

    def fill_up(self: pydicom.Dataset, name: Path, **options: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", fill_up)
    assert "disk is full" in refused(tmp_path / "m.dcm", segmentation, source=tmp_path / "ct")
    assert _names_in(tmp_path) == ["ct"]


def test_another_dicom_object_is_no_segmentation(tmp_path: Path, write_series: Callable) -> None:
    paths = write_series(tmp_path / "ct")
    with pytest.raises(UserError, match="not a DICOM segmentation"):
        read_labels(paths[0], read_volume(tmp_path / "ct"))


@pytest.mark.data
def test_real_dicom_seg_against_the_source_positions(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "ct_abdomen_dicom"
    volume = read_volume(folder / "series")
    reference = read_labels(folder / "labels.nii.gz", volume)
    organs = (Structure(1, "spleen"), Structure(5, "liver"), Structure(6, "stomach"), Structure(7, "pancreas"))
    labels = np.where(np.isin(reference.labels, [1, 5, 6, 7]), reference.labels, 0)
    path = save_segmentation(
        Segmentation(labels, volume, organs, model_name="reference"), tmp_path / "m.dcm", source=folder / "series"
    )
    data = highdicom.seg.segread(path)
    by_height = {
        round(float(header.ImagePositionPatient[2]), 3): str(header.file_meta.MediaStorageSOPInstanceUID)
        for header in (pydicom.dcmread(p, stop_before_pixels=True) for p in (folder / "series").glob("*.dcm"))
    }
    seen = np.zeros_like(labels)
    for frame, item in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence):
        position = [float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient]
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == by_height[round(position[2], 3)]
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        k = round(float(np.linalg.solve(volume.affine, [*position, 1.0])[2]))
        seen[k][frame > 0] = organs[number - 1].label
    assert np.array_equal(seen, labels)


@pytest.mark.data
def test_dicom_seg_on_a_multi_frame_source(test_data: Path, tmp_path: Path, draw_mask: Callable) -> None:
    paths = sorted((test_data / "ct_calibration_dicom" / "series").glob("*.dcm"))[:4]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(path) for path in paths], generate_uid(), 1, generate_uid(), 1
    )
    (tmp_path / "ct").mkdir()
    enhanced.save_as(tmp_path / "ct" / "enhanced.dcm")
    before = draw_mask(read_volume(tmp_path / "ct"))
    path = save_segmentation(before, tmp_path / "m.dcm", source=tmp_path / "ct")
    assert np.array_equal(np.array([0, 1, 3, 7])[read_labels(path, before.volume).labels], before.labels)
