"""NIfTI, NRRD and MetaImage: every orientation there and back, and every broken file refused by name."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medquant.errors import UserError
from medquant.imaging.itk_file import affine_of, image_of
from medquant.imaging.reading import read_volume

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any right-angled grid: oblique, with axes permuted and flipped (left-handed), with any spacing and origin."""
    angles = draw(st.tuples(*[st.floats(-180, 180, allow_subnormal=False)] * 3) | st.just((0.0, 0.0, 0.0)))
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    permutation = np.eye(3)[list(draw(st.permutations(range(3))))]
    flips = np.diag(draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)))
    spacing = np.array(draw(st.tuples(*[st.floats(0.2, 8.0)] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ permutation @ flips * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-900, 900)] * 3))
    return affine


shapes = st.tuples(*[st.integers(1, 6)] * 3)


@settings(max_examples=40, deadline=None)
@given(affine=affines(), shape=shapes, suffix=st.sampled_from(SUFFIXES), seed=st.integers(0, 99))
def test_any_orientation_comes_back(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, shape: tuple[int, ...], suffix: str, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    path = tmp_path_factory.mktemp("scan") / f"scan{suffix}"
    sitk.WriteImage(image_of(array, affine), str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.affine, affine, atol=2e-4)  # NIfTI stores single precision
    assert volume.name == "scan"


@settings(max_examples=25, deadline=None)
@given(affine=affines(), shape=shapes)
def test_nifti_agrees_with_nibabel(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path_factory.mktemp("nib") / "scan.nii.gz"
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    nibabel.save(nibabel.Nifti1Image(array.T, ras), path)
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.ras_affine, nibabel.load(path).affine, atol=2e-4)


def test_affine_of_image_maps_indices_as_simpleitk_does(rng: np.random.Generator) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix() * (0.5, 0.7, -3.0)
    affine[:3, 3] = (5, 6, 7)
    image = image_of(rng.random((3, 4, 5)), affine)
    for index in ((0, 0, 0), (4, 3, 2), (1, 2, 0)):
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), (affine @ (*index, 1))[:3])
    assert np.allclose(affine_of(image), affine)


def _message(path: Path, **options: int) -> str:
    with pytest.raises(UserError) as caught:
        read_volume(path, **options)
    message = str(caught.value)
    assert message.count(". ") >= 1, "one sentence on what is wrong, one on what to do"
    return message


def test_missing_and_empty_and_unknown_files(tmp_path: Path) -> None:
    assert "no file" in _message(tmp_path / "gone.nii.gz")
    (tmp_path / "empty.nrrd").touch()
    assert "empty" in _message(tmp_path / "empty.nrrd")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in _message(tmp_path / "notes.txt")
    (tmp_path / "text.nii").write_text("hello" * 200)
    assert "not a NIfTI" in _message(tmp_path / "text.nii")
    (tmp_path / "text.mha").write_text("hello" * 200)
    assert "text.mha" in _message(tmp_path / "text.mha")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, part: float, rng: np.random.Generator) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(rng.integers(-999, 999, (9, 20, 20)).astype(np.int16)), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert path.name in _message(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), header), path)
    assert np.array_equal(read_volume(path).array, array)
    path.write_bytes(path.read_bytes()[:-2])
    assert "cut short" in _message(path)


def test_nifti_2_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti2Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), path)
    assert "NIfTI-2" in _message(path)


def test_a_damaged_checksum_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(rng.random((4, 5, 6))), str(path))
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in _message(path)


def test_packed_and_unpacked_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    ones = np.ones((3, 4, 5), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(ones), str(tmp_path / "scan.nii"))
    (tmp_path / "other.nii").write_bytes((tmp_path / "scan.nii").read_bytes())
    sitk.WriteImage(sitk.GetImageFromArray(ones * 2), str(tmp_path / "twos.nii"))
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress((tmp_path / "twos.nii").read_bytes()))
    assert read_volume(tmp_path / "scan.nii").array.max() == 1
    assert read_volume(tmp_path / "scan.nii.gz").array.max() == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colour_needs_a_component(tmp_path: Path, suffix: str, rng: np.random.Generator) -> None:
    array = rng.integers(0, 255, (3, 4, 5, 3)).astype(np.uint8)
    path = tmp_path / f"rgb{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(path))
    message = _message(path)
    assert "3 values per voxel" in message
    assert "component=0 to component=2" in message
    assert "component=3 does not exist" in _message(path, component=3)
    for component in range(3):
        assert np.array_equal(read_volume(path, component=component).array, array[..., component])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_four_dimensions_need_a_frame(tmp_path: Path, suffix: str, rng: np.random.Generator) -> None:
    array = rng.random((2, 3, 4, 5)).astype(np.float32)
    path = tmp_path / f"series{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    message = _message(path)
    assert "four-dimensional" in message
    assert "frame=0 to frame=1" in message
    assert "frame=-1 does not exist" in _message(path, frame=-1)
    for frame in range(2):
        assert np.array_equal(read_volume(path, frame=frame).array, array[frame])


def test_other_dimensions_and_types(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "flat.nrrd"))
    assert "2 dimensions" in _message(tmp_path / "flat.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.complex64)), str(tmp_path / "complex.nii"))
    assert "complex" in _message(tmp_path / "complex.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((1, 3, 4, 5), np.uint8), isVector=False), str(tmp_path / "one.nii"))
    assert read_volume(tmp_path / "one.nii").shape == (3, 4, 5)
    assert "no component 2" in _message(tmp_path / "one.nii", component=2)
    sheared = np.diag([1.0, 1.0, 2.0, 1.0])
    sheared[1, 2] = 0.5
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), sheared), tmp_path / "sheared.nii")
    assert "right angles" in _message(tmp_path / "sheared.nii")


def test_voxels_that_are_not_numbers_are_counted(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), np.float32)
    array[0, 0, :3], array[2, 1, 1] = np.nan, -np.inf
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "holes.nrrd"))
    assert "4 of 60 voxels" in _message(tmp_path / "holes.nrrd")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "locked.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(path))
    path.chmod(0)
    assert "may open" in _message(path)


def test_a_file_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(path))

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in _message(path)
    assert "Permission denied" in _message(path.rename(tmp_path / "IM0001"))


def test_nrrd_in_ras_is_turned_to_lps(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: right-anterior-superior\nsizes: 4 3 2\n"
        "space directions: (2,0,0) (0,0,3) (0,5,0)\nspace origin: (10,20,30)\nencoding: raw\n\n"
    )
    (tmp_path / "ras.nrrd").write_bytes(header.encode() + bytes(range(24)))
    volume = read_volume(tmp_path / "ras.nrrd")
    assert np.array_equal(volume.array.ravel(), np.arange(24))
    assert np.allclose(volume.ras_affine, [[2, 0, 0, 10], [0, 0, 5, 20], [0, 3, 0, 30], [0, 0, 0, 1]])


REAL = {
    "ct_abdomen_3mm/ct.nii.gz": ("CT", (112, 101, 122), (3.0, 3.0, 3.0)),
    "ct_small/ct.nii.gz": ("CT", (30, 101, 122), (3.0, 3.0, 3.0)),
    "ct_spleen_5mm/sub-spleen2_ct.nii.gz": ("CT", (26, 166, 164), (5.0, 0.795, 0.795)),
    "mr_small/mr_totalseg.nii.gz": ("", (20, 91, 117), (3.0, 3.0, 3.0)),
    "mr_small/brain1_image.nrrd": ("", (25, 256, 256), (6.5, 0.781, 0.781)),
    "mr_small/breast1_image.nrrd": ("", (21, 120, 45), (2.1, 0.664, 0.664)),
    "ct_abdomen_dicom/series": ("CT", (20, 512, 512), (2.0, 0.977, 0.977)),
    "ct_calibration_dicom/series": ("CT", (41, 512, 512), (5.0, 0.797, 0.797)),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_scans(test_data: Path, name: str) -> None:
    modality, shape, spacing = REAL[name]
    volume = read_volume(test_data / name)
    assert (volume.modality, volume.shape) == (modality, shape)
    assert np.allclose(volume.spacing, spacing, atol=1e-3)


@pytest.mark.data
def test_a_numpy_archive_is_refused_with_the_formats_that_work(test_data: Path) -> None:
    assert "NIfTI" in _message(test_data / "mr_brain_t1" / "test_scan.npz")
