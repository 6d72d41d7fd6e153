"""DICOM series: sorted by position, chosen by number or UID, refused by name where they form no regular grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from medquant.errors import UserError
from medquant.imaging.reading import list_series, read_volume

OBLIQUE = Rotation.from_euler("xyz", (12, -25, 40), degrees=True).as_matrix()
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, feet first and face down": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (*OBLIQUE[:, 0], *OBLIQUE[:, 1]),
}


def _message(path: Path, **options: int | str) -> str:
    with pytest.raises(UserError) as caught:
        read_volume(path, **options)
    message = str(caught.value)
    assert ". " in message, "one sentence on what is wrong, one on what to do"
    assert "SECRET" not in message
    assert "Nobody" not in message
    return message


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_slices_are_sorted_by_position(
    tmp_path: Path, write_series: Callable, written_voxels: Callable, orientation: tuple[float, ...]
) -> None:
    paths = write_series(tmp_path, orientation=orientation)
    assert [path.name for path in paths] != sorted(path.name for path in paths)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, written_voxels())
    assert volume.array.dtype == np.int16
    assert volume.modality == "CT"
    assert np.allclose(volume.spacing, (2.5, 0.8, 0.7), atol=1e-4)
    assert np.allclose(volume.origin, (-10, 20, 100))
    assert np.allclose(volume.direction[:, 0], orientation[:3], atol=1e-6)
    assert np.allclose(volume.direction[:, 1], orientation[3:], atol=1e-6)
    assert np.linalg.det(volume.direction) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_the_grid_is_that_of_simpleitk(tmp_path: Path, write_series: Callable, orientation: tuple[float, ...]) -> None:
    write_series(tmp_path, orientation=orientation, step=-2.5 * np.cross(orientation[:3], orientation[3:]))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (7, 5, 4)):
        assert np.allclose((volume.affine @ (*index, 1))[:3], image.TransformIndexToPhysicalPoint(index), atol=1e-3)


def test_no_patient_data_in_the_volume(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path / "SECRET-7")
    assert "SECRET" not in repr(vars(read_volume(tmp_path / "SECRET-7")))


def test_rescale_of_each_slice_is_applied(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path, change=lambda k, data: setattr(data, "RescaleSlope", 0.5 + k))
    volume = read_volume(tmp_path)
    stored = 1024 + 100 * np.arange(5)[:, None, None] + np.arange(48).reshape(1, 6, 8)
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, stored * (0.5 + np.arange(5))[:, None, None] - 1024)


def test_one_file_stands_for_its_series(tmp_path: Path, write_series: Callable, written_voxels: Callable) -> None:
    paths = write_series(tmp_path)
    write_series(tmp_path, count=3, SeriesNumber=9, first_file=50)
    bare = paths[2].rename(tmp_path / "IM0001")
    assert np.array_equal(read_volume(bare).array, written_voxels())
    assert np.array_equal(read_volume(paths[0]).array, written_voxels())


def test_several_series_are_listed_and_chosen(tmp_path: Path, write_series: Callable, written_voxels: Callable) -> None:
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", count=3, SeriesNumber=12, SeriesDescription="Lung", Modality="MR")
    (tmp_path / "readme.txt").write_text("not an image")
    (tmp_path / "._hidden.dcm").write_text("resource fork")
    first, second = list_series(tmp_path)
    assert (first.number, first.description, first.modality, first.count, first.size) == (
        3, "Abdomen 2.5", "CT", 5, "8 x 6",
    )  # fmt: skip
    assert (second.number, second.count, second.usable) == (12, 3, True)
    message = _message(tmp_path)
    for part in ("2 series", "--series", "3: Abdomen 2.5", "12: Lung", first.uid, second.uid):
        assert part in message
    assert "Lung" in _message(tmp_path, series=4)
    for choice in (12, "12", second.uid):
        volume = read_volume(tmp_path, series=choice)
        assert np.array_equal(volume.array, written_voxels(3))
        assert (volume.modality, volume.name) == ("MR", "Lung")


def test_repeated_series_numbers_are_replaced_by_the_place_in_the_list(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", count=3)
    listed = list_series(tmp_path)
    assert [info.number for info in listed] == [1, 2]
    assert read_volume(tmp_path, series=1).shape[0] == listed[0].count


def test_secondary_captures(tmp_path: Path, write_series: Callable, written_voxels: Callable) -> None:
    def capture(number: int, data: pydicom.Dataset) -> None:
        del data.ImagePositionPatient, data.ImageOrientationPatient
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    write_series(tmp_path / "shots", count=2, change=capture, SeriesNumber=99)
    assert "secondary captures" in _message(tmp_path)
    assert "secondary capture" in str(list_series(tmp_path)[0])
    write_series(tmp_path / "scan")
    assert np.array_equal(read_volume(tmp_path).array, written_voxels())
    assert "secondary captures" in _message(tmp_path, series=99)


def test_objects_that_are_no_images_are_left_out(
    tmp_path: Path, write_series: Callable, written_voxels: Callable
) -> None:
    def dose(number: int, data: pydicom.Dataset) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = RTDoseStorage

    write_series(tmp_path / "dose", count=1, change=dose, SeriesNumber=50)
    assert "no DICOM series" in _message(tmp_path)
    write_series(tmp_path / "scan")
    assert len(list_series(tmp_path)) == 1
    assert np.array_equal(read_volume(tmp_path).array, written_voxels())


def test_missing_slices_are_named(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path, count=9, skip=(3, 6, 7))
    message = _message(tmp_path)
    assert "3 slices are missing" in message
    assert "2.50 mm" in message
    for position in ("105.00", "110.00", "112.50", "120.00"):
        assert f"{position} mm" in message


def test_uneven_spacing(tmp_path: Path, write_series: Callable) -> None:
    def shift(number: int, data: pydicom.Dataset) -> None:
        data.ImagePositionPatient = [-10, 20, 100 + 2.5 * number + (0.8 if number == 2 else 0)]

    write_series(tmp_path, change=shift)
    assert "unevenly spaced, 1.70 to 3.30 mm" in _message(tmp_path)


def test_rounded_positions_are_even_enough(tmp_path: Path, write_series: Callable) -> None:
    def rounded(number: int, data: pydicom.Dataset) -> None:
        data.ImagePositionPatient = [-10, 20, round(100 + 0.625 * number, 1)]

    write_series(tmp_path, count=9, change=rounded)
    assert read_volume(tmp_path).spacing[0] == pytest.approx(0.625)


def test_gantry_tilt_is_named_with_its_angle(tmp_path: Path, write_series: Callable) -> None:
    angle = np.radians(12.5)
    tilted = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    write_series(tmp_path, orientation=tilted, step=(0, 0, 2.5))
    assert "tilted by 12.5 degrees" in _message(tmp_path)


def test_slices_shifted_sideways(tmp_path: Path, write_series: Callable) -> None:
    def shift(number: int, data: pydicom.Dataset) -> None:
        data.ImagePositionPatient = [-10 + (3.0 if number == 2 else 0), 20, 100 + 2.5 * number]

    write_series(tmp_path, change=shift)
    assert "sideways by up to 3.0 mm" in _message(tmp_path)


def test_mixed_orientations_sizes_and_spacings(tmp_path: Path, write_series: Callable) -> None:
    def turn(number: int, data: pydicom.Dataset) -> None:
        if number == 4:
            data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_series(tmp_path / "a", change=turn)
    message = _message(tmp_path / "a")
    assert "mixes orientations: 4 of axial" in message
    assert "1 of coronal" in message

    def zoom(number: int, data: pydicom.Dataset) -> None:
        if number == 4:
            data.PixelSpacing = [0.5, 0.5]

    write_series(tmp_path / "b", change=zoom)
    assert "mixes voxel sizes" in _message(tmp_path / "b")

    def crop(number: int, data: pydicom.Dataset) -> None:
        if number == 4:
            data.Rows, data.PixelData = 5, data.PixelData[: 2 * 5 * 8]

    write_series(tmp_path / "c", change=crop)
    assert "4 of 8 x 6, 1 of 8 x 5" in _message(tmp_path / "c")


def test_duplicates_are_named(tmp_path: Path, write_series: Callable) -> None:
    paths = write_series(tmp_path / "copy")
    (tmp_path / "copy" / "again.dcm").write_bytes(paths[0].read_bytes())
    message = _message(tmp_path / "copy")
    assert "same image twice" in message
    assert "again.dcm" in message

    def stay(number: int, data: pydicom.Dataset) -> None:
        if number == 3:
            data.ImagePositionPatient = [-10, 20, 105]

    paths = write_series(tmp_path / "place", change=stay)
    message = _message(tmp_path / "place")
    assert "same position (105.00 mm)" in message
    assert paths[2].name in message
    assert paths[3].name in message


def test_time_points_are_chosen_by_frame(tmp_path: Path, write_series: Callable, written_voxels: Callable) -> None:
    uid = generate_uid()
    write_series(tmp_path, SeriesInstanceUID=uid, AcquisitionNumber=2, RescaleIntercept=-24)
    write_series(tmp_path, SeriesInstanceUID=uid, AcquisitionNumber=1, first_file=50)
    message = _message(tmp_path)
    assert "2 images at each of 5 positions" in message
    assert "frame=0 to frame=1" in message
    assert np.array_equal(read_volume(tmp_path, frame=0).array, written_voxels())
    assert np.array_equal(read_volume(tmp_path, frame=1).array, written_voxels() + 1000)


def test_colour_needs_a_component(tmp_path: Path, write_series: Callable, written_voxels: Callable) -> None:
    def paint(number: int, data: pydicom.Dataset) -> None:
        data.SamplesPerPixel, data.PlanarConfiguration, data.PhotometricInterpretation = 3, 0, "RGB"
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        rgb = np.stack([np.full((6, 8), value, np.uint8) for value in (10 + number, 20, 30)], axis=-1)
        data.PixelData = rgb.tobytes()
        data["PixelData"].VR = "OB"
        del data.RescaleSlope, data.RescaleIntercept

    write_series(tmp_path, change=paint)
    assert "component=0 to component=2" in _message(tmp_path)
    assert np.array_equal(read_volume(tmp_path, component=0).array[:, 0, 0], 10 + np.arange(5))


def test_one_slice_uses_the_header_thickness(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path, count=1, SliceThickness=4)
    assert read_volume(tmp_path).spacing[0] == 4


def test_empty_missing_and_foreign_folders(tmp_path: Path) -> None:
    assert "it is empty" in _message(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert "none of its 1 files" in _message(tmp_path)
    assert "no file" in _message(tmp_path / "gone")
    with pytest.raises(UserError, match="no folder"):
        list_series(tmp_path / "gone")


@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.7, 0.98])
def test_a_broken_file_is_named(tmp_path: Path, write_series: Callable, part: float) -> None:
    paths = write_series(tmp_path)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: int(len(whole) * part)])
    message = _message(tmp_path)
    assert paths[1].name in message
    assert "Export" in message


def test_a_folder_of_nothing_but_broken_files(tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes(b"\x00" * 400)
    assert "one.dcm is broken" in _message(tmp_path)
    assert "one.dcm is broken" in _message(tmp_path / "one.dcm")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_compressed_transfer_syntaxes(
    tmp_path: Path, write_series: Callable, written_voxels: Callable, syntax: pydicom.uid.UID
) -> None:
    for path in write_series(tmp_path):
        data = pydicom.dcmread(path)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
    assert np.array_equal(read_volume(tmp_path).array, written_voxels())


@pytest.mark.data
def test_simpleitk_decodes_what_pydicom_has_no_plugin_for(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = test_data / "ct_abdomen_dicom" / "series"
    usual = read_volume(folder)
    decoder = get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    assert not decoder.is_available
    assert np.array_equal(read_volume(folder).array, usual.array)


@pytest.mark.data
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_a_compressed_file_cut_short_is_named(test_data: Path, tmp_path: Path, part: float) -> None:
    paths = sorted((test_data / "ct_abdomen_dicom" / "series").glob("*.dcm"))[:4]
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = paths[2].read_bytes()
    (tmp_path / paths[2].name).write_bytes(whole[: int(len(whole) * part)])
    assert paths[2].name in _message(tmp_path)


@pytest.mark.data
def test_a_missing_real_slice_is_named(test_data: Path, tmp_path: Path) -> None:
    paths = sorted((test_data / "ct_calibration_dicom" / "series").glob("*.dcm"))
    for path in paths[:5] + paths[6:10]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    message = _message(tmp_path)
    assert "1 slice is missing" in message
    assert "-195.00 mm" in message
    assert "-205.00 mm" in message


@pytest.mark.data
def test_a_multi_frame_file_equals_its_slices(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "ct_calibration_dicom" / "series"
    headers = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))[:6]]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(headers, generate_uid(), 1, generate_uid(), 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    single, multi = read_volume(folder), read_volume(tmp_path)
    # Both run along the slice normal from the lowest position.
    offset = np.linalg.solve(single.affine, multi.affine)
    assert np.allclose(offset[:3, :3], np.eye(3), atol=1e-6)
    first = round(offset[2, 3])
    assert np.array_equal(multi.array, single.array[first : first + 6])
    assert multi.modality == "CT"
