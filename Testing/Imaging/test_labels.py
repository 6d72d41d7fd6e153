"""Masks: on the scan's own grid to the voxel, into every format and back, and never half written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from medquant.errors import UserError
from medquant.imaging import writing
from medquant.imaging.itk_file import affine_of, image_of
from medquant.imaging.lattice import onto_grid
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation
from medquant.segmentation import Segmentation, Structure

FILES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
ORGANS = (Structure(1, "spleen"), Structure(3, "Left kidney"), Structure(7, "strange thing", (0.25, 0.5, 1.0)))


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """A scan on any right-angled grid: oblique, permuted, left-handed."""
    angles = draw(st.tuples(*[st.floats(-180, 180, allow_subnormal=False)] * 3) | st.just((0.0, 0.0, 0.0)))
    permutation = np.eye(3)[list(draw(st.permutations(range(3))))]
    flips = np.diag(draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ permutation @ flips
    affine[:3, :3] *= np.array(draw(st.tuples(*[st.floats(0.3, 6.0)] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-600, 600)] * 3))
    return Volume(np.zeros(draw(st.tuples(*[st.integers(1, 7)] * 3)), np.int16), affine)


def _segmentation(volume: Volume, seed: int = 0) -> Segmentation:
    labels = np.random.default_rng(seed).choice([0, 1, 3, 7], volume.shape).astype(np.uint8)
    return Segmentation(labels, volume, ORGANS, model_name="test model")


def _oblique(shape: tuple[int, int, int] = (4, 6, 8)) -> Volume:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (10, -20, 35), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag((1.0, -1.0, 1.0)) * (0.7, 0.8, 3.0)
    affine[:3, 3] = (-50, 30, 200)
    return Volume(np.zeros(shape, np.int16), affine, name="scan")


@settings(max_examples=40, deadline=None)
@given(volume=volumes(), suffix=st.sampled_from(FILES), seed=st.integers(0, 99))
def test_masks_come_back_to_the_voxel(
    tmp_path_factory: pytest.TempPathFactory, volume: Volume, suffix: str, seed: int
) -> None:
    before = _segmentation(volume, seed)
    kept = before.labels.copy()
    path = save_segmentation(before, tmp_path_factory.mktemp("mask") / f"mask{suffix}")
    after = read_labels(path, volume)
    assert np.array_equal(after.labels, kept)
    assert np.array_equal(before.labels, kept)
    assert after.model_name == path.name
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@settings(max_examples=25, deadline=None)
@given(volume=volumes(), seed=st.integers(0, 99))
def test_nifti_masks_lie_where_nibabel_finds_them(
    tmp_path_factory: pytest.TempPathFactory, volume: Volume, seed: int
) -> None:
    before = _segmentation(volume, seed)
    image = nibabel.load(save_segmentation(before, tmp_path_factory.mktemp("nib") / "mask.nii.gz"))
    assert np.array_equal(np.asarray(image.dataobj).T, before.labels)
    corner = np.array([*reversed(volume.shape), 1])
    assert np.allclose(image.affine @ corner, volume.ras_affine @ corner, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    volume=volumes(),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    larger=st.tuples(*[st.integers(0, 2)] * 3),
    seed=st.integers(0, 99),
)
def test_the_same_voxels_in_another_order_are_mapped_exactly(
    volume: Volume, order: list[int], flips: tuple[bool, ...], larger: tuple[int, ...], seed: int
) -> None:
    expected = _segmentation(volume, seed).labels
    stored = np.pad(expected, [(n, n) for n in larger], constant_values=9)
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ larger[::-1]
    stored, columns = stored.T, affine[:3, :3].copy()  # (i, j, k), like the columns of the matrix
    for axis in range(3):
        if flips[axis]:
            affine[:3, 3] += columns[:, axis] * (stored.shape[axis] - 1)
            stored, columns[:, axis] = np.flip(stored, axis), -columns[:, axis]
    affine[:3, :3] = columns[:, order]
    moved, _ = onto_grid(np.ascontiguousarray(stored.transpose(order).T), affine, volume, name="labels")
    assert np.array_equal(moved, expected)


def test_another_grid_is_resampled_and_says_so(tmp_path: Path) -> None:
    volume = _oblique((6, 20, 20))
    fine = volume.affine.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= fine[:3, :3].sum(axis=1) / 2  # the finer grid's voxels halve the scan's: same field of view
    labels = np.kron(_segmentation(volume).labels, np.ones((2, 2, 2), np.uint8))
    sitk.WriteImage(image_of(labels, fine), str(tmp_path / "fine.nrrd"))
    found = read_labels(tmp_path / "fine.nrrd", volume)
    assert "resampled" in found.model_name
    assert np.array_equal(found.labels, _segmentation(volume).labels)


def test_labels_that_do_not_cover_the_scan_are_refused(tmp_path: Path) -> None:
    volume = _oblique()
    labels = _segmentation(volume).labels
    sitk.WriteImage(image_of(labels[:-1], volume.affine), str(tmp_path / "short.nii.gz"))
    with pytest.raises(UserError, match="does not cover the scan"):
        read_labels(tmp_path / "short.nii.gz", volume)
    far = volume.affine.copy()
    far[:3, 3] += 500
    sitk.WriteImage(image_of(labels, far), str(tmp_path / "far.nii.gz"))
    with pytest.raises(UserError, match="does not cover the scan"):
        read_labels(tmp_path / "far.nii.gz", volume)


def test_what_is_no_label_map_is_refused(tmp_path: Path) -> None:
    volume = _oblique()
    for number, values in enumerate((0.5, -1, np.nan)):
        path = tmp_path / f"{number}.nrrd"
        sitk.WriteImage(image_of(np.full(volume.shape, values, np.float32), volume.affine), str(path))
        with pytest.raises(UserError, match="not a label map"):
            read_labels(path, volume)
    with pytest.raises(UserError, match="no file"):
        read_labels(tmp_path / "gone.nrrd", volume)


def test_names_can_be_given(tmp_path: Path) -> None:
    before = _segmentation(_oblique())
    path = save_segmentation(before, tmp_path / "mask.nii.gz")
    names = [each.name for each in read_labels(path, before.volume, names={1: "spleen"}).structures]
    assert names == ["spleen", "label 3", "label 7"]


def test_slicer_header_fields(tmp_path: Path) -> None:
    volume = _oblique()
    labels = np.zeros(volume.shape, np.uint8)
    labels[1:3, 2:5, 3:8] = 3
    path = save_segmentation(Segmentation(labels, volume, ORGANS), tmp_path / "mask.seg.nrrd")
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image), labels)
    assert np.allclose(affine_of(image), volume.affine)
    field = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert field["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert field["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert (field["Segment1_ID"], field["Segment1_Name"], field["Segment1_LabelValue"]) == (
        "Segment_3", "Left kidney", "3",
    )  # fmt: skip
    assert (field["Segment1_Extent"], field["Segment0_Extent"]) == ("3 7 2 4 1 2", "0 -1 0 -1 0 -1")
    assert field["Segment2_Color"] == "0.25 0.5 1"
    assert "~SCT^64033007^Kidney~SCT^7771000^Left~" in field["Segment1_Tags"]
    assert "~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~" in field["Segment2_Tags"]
    entry = field["Segment1_Tags"].split("TerminologyEntry:")[1].rstrip("|")
    assert len(entry.split("~")) == 7, "Slicer refuses entries with fewer parts"
    assert "Segment3_ID" not in field


def test_slicer_files_cropped_and_in_layers_are_read(tmp_path: Path) -> None:
    volume = _oblique()
    layers = np.zeros((2, 3, 4, 2), np.uint8)
    layers[0, :, :, 0], layers[:, 1, :, 1] = 1, 1
    cropped = volume.affine.copy()
    cropped[:3, 3] = (volume.affine @ (2, 1, 1, 1))[:3]
    image = sitk.GetImageFromArray(layers, isVector=True)
    image.CopyInformation(image_of(layers[..., 0], cropped))
    for number, name in enumerate(("under", "over")):
        for key, value in {"ID": name, "Name": name, "LabelValue": "1", "Layer": str(number)}.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "slicer.seg.nrrd"))
    found = read_labels(tmp_path / "slicer.seg.nrrd", volume)
    expected = np.zeros(volume.shape, np.uint8)
    expected[1, 1:4, 2:6] = 1
    expected[1:3, 2, 2:6] = 2
    assert np.array_equal(found.labels, expected)
    assert [(each.label, each.name) for each in found.structures] == [(1, "under"), (2, "over")]
    assert "cropped" in found.model_name


def test_labels_without_a_name_and_large_labels_are_written(tmp_path: Path) -> None:
    volume = _oblique()
    labels = np.zeros(volume.shape, np.int64)
    labels[0, 0, 0], labels[1, 1, 1] = 4, 300
    path = save_segmentation(Segmentation(labels, volume, ()), tmp_path / "mask.seg.nrrd")
    found = read_labels(path, volume)
    assert np.array_equal(found.labels, labels)
    assert [each.name for each in found.structures] == ["label 4", "label 300"]


def _refused(path: Path, segmentation: Segmentation | None = None, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        save_segmentation(segmentation or _segmentation(_oblique()), path, **options)
    return str(caught.value)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    volume = _oblique()
    assert ".seg.nrrd" in _refused(tmp_path / "mask.png")
    assert "whole numbers" in _refused(tmp_path / "m.nrrd", Segmentation(np.full(volume.shape, 0.5), volume, ()))
    assert "whole numbers" in _refused(tmp_path / "m.nrrd", Segmentation(np.full(volume.shape, -1), volume, ()))
    assert "empty" in _refused(tmp_path / "m.nrrd", Segmentation(np.zeros(volume.shape, np.uint8), volume, ()))
    sheared = volume.affine.copy()
    sheared[:3, 2] += sheared[:3, 1]
    assert "right angles" in _refused(tmp_path / "m.nii", _segmentation(Volume(volume.array, sheared)))
    assert "source" in _refused(tmp_path / "m.dcm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("old", [None, b"kept"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, old: bytes | None
) -> None:
    path = tmp_path / f"mask{suffix}"
    if old:
        path.write_bytes(old)

    def fill_up(image: sitk.Image, name: str, **options: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.sitk, "WriteImage", fill_up)
    assert "disk is full" in _refused(path)
    assert [each.name for each in tmp_path.iterdir()] == ([path.name] if old else [])
    assert not old or path.read_bytes() == old


@pytest.mark.parametrize("suffix", FILES)
def test_a_writer_that_stops_early_without_a_word_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write = sitk.WriteImage

    def stop_early(image: sitk.Image, name: str, **options: object) -> None:
        write(image, name, **options)
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: len(whole) - 20])

    monkeypatch.setattr(writing.sitk, "WriteImage", stop_early)
    assert "not be written whole" in _refused(tmp_path / f"mask{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_real_write_error_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    """The operating system itself refuses to write more than 4 KiB."""
    script = f"""
import resource, signal
import numpy as np
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation
from medquant.segmentation import Segmentation
labels = np.random.default_rng(0).integers(0, 250, (20, 40, 40)).astype(np.uint8)
volume = Volume(labels, np.eye(4))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_segmentation(Segmentation(labels, volume, ()), {str(tmp_path / ("mask" + suffix))!r})
except UserError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("refused:"), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "Cannot write" in _refused(tmp_path / "file" / "mask.nrrd")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("medquant.files.tempfile.mkdtemp", refuse)
    assert "Permission denied" in _refused(tmp_path / "mask.nrrd")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


# DICOM SEG


def _dicom_segmentation(folder: Path) -> Segmentation:
    return _segmentation(read_volume(folder))


@pytest.mark.parametrize("oblique", [False, True])
def test_dicom_seg_comes_back_to_the_voxel(tmp_path: Path, write_series: Callable, oblique: bool) -> None:
    turn = Rotation.from_euler("xyz", (12, -25, 40) if oblique else (0, 0, 0), degrees=True).as_matrix()
    write_series(tmp_path / "ct", orientation=(*turn[:, 0], *turn[:, 1]))
    before = _dicom_segmentation(tmp_path / "ct")
    path = save_segmentation(before, tmp_path / "mask.dcm", source=tmp_path / "ct")
    after = read_labels(path, before.volume)
    for number, structure in enumerate(ORGANS, start=1):
        assert np.array_equal(after.labels == number, before.mask(structure))
        assert after.structures[number - 1].name == structure.name
    assert np.allclose(after.structures[2].color, (0.25, 0.5, 1.0), atol=0.02)
    assert list_of(tmp_path) == ["ct", "mask.dcm"]


def list_of(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_dicom_seg_carries_patient_terms_and_references(tmp_path: Path, write_series: Callable) -> None:
    sources = {str(pydicom.dcmread(p).SOPInstanceUID) for p in write_series(tmp_path / "ct")}
    segmentation = _dicom_segmentation(tmp_path / "ct")
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


@pytest.mark.parametrize("name", ["mask.dcm", "mask.seg.nrrd"])
def test_any_name_survives(tmp_path: Path, write_series: Callable, name: str) -> None:
    write_series(tmp_path / "ct", SpecificCharacterSet="ISO_IR 100", PatientName="Größe^Jürgen")
    volume = read_volume(tmp_path / "ct")
    written = (Structure(1, "left\\right\nlobe: a|b"), Structure(3, ""), Structure(7, "Milz, größer 肝"))
    before = Segmentation(_segmentation(volume).labels, volume, written, model_name="größer")
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


def test_dicom_seg_of_a_mask_drawn_on_the_nifti_copy(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path / "ct")
    original = read_volume(tmp_path / "ct")
    flipped = original.affine.copy()
    flipped[:3, 3] += flipped[:3, 1] * (original.shape[1] - 1)
    flipped[:3, 1] *= -1
    copy = Volume(original.array[:, ::-1], flipped)
    path = save_segmentation(_segmentation(copy), tmp_path / "m.dcm", source=tmp_path / "ct")
    found = read_labels(path, original).labels
    assert np.array_equal(np.array([0, 1, 3, 7])[found], _segmentation(copy).labels[:, ::-1])


def test_dicom_seg_refuses_another_source(tmp_path: Path, write_series: Callable) -> None:
    write_series(tmp_path / "ct")
    write_series(tmp_path / "other", origin=(-9.5, 20.3, 101.0))
    segmentation = _dicom_segmentation(tmp_path / "ct")
    message = _refused(tmp_path / "m.dcm", segmentation, source=tmp_path / "other")
    assert "does not lie on the voxels of the series" in message
    assert "no folder" in _refused(tmp_path / "m.dcm", segmentation, source=tmp_path / "gone")
    assert list_of(tmp_path) == ["ct", "other"]


def test_dicom_seg_on_a_full_disk(tmp_path: Path, write_series: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "ct")
    segmentation = _dicom_segmentation(tmp_path / "ct")

    def fill_up(self: pydicom.Dataset, name: Path, **options: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", fill_up)
    assert "disk is full" in _refused(tmp_path / "m.dcm", segmentation, source=tmp_path / "ct")
    assert list_of(tmp_path) == ["ct"]


def test_another_dicom_object_is_no_segmentation(tmp_path: Path, write_series: Callable) -> None:
    paths = write_series(tmp_path / "ct")
    with pytest.raises(UserError, match="not a DICOM segmentation"):
        read_labels(paths[0], read_volume(tmp_path / "ct"))


@pytest.mark.data
def test_real_dicom_against_its_reference(test_data: Path) -> None:
    folder = test_data / "ct_abdomen_dicom"
    volume = read_volume(folder / "series")
    reference = read_labels(folder / "labels.nii.gz", volume)
    assert "reoriented" in reference.model_name  # the series is LPS, the labels are LAS
    stored = sitk.ReadImage(str(folder / "labels.nii.gz"))
    for index in ((300, 300, 4), (200, 280, 15), (260, 220, 0)):
        point = (volume.affine @ (*index, 1))[:3]
        assert reference.labels[index[::-1]] == stored[stored.TransformPhysicalPointToIndex(point.tolist())]
    assert 60 < volume.array[reference.mask(5)].mean() < 180  # liver after contrast medium
    assert 60 < volume.array[reference.mask(1)].mean() < 180  # spleen


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
def test_dicom_seg_on_a_multi_frame_source(test_data: Path, tmp_path: Path) -> None:
    paths = sorted((test_data / "ct_calibration_dicom" / "series").glob("*.dcm"))[:4]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(path) for path in paths], generate_uid(), 1, generate_uid(), 1
    )
    (tmp_path / "ct").mkdir()
    enhanced.save_as(tmp_path / "ct" / "enhanced.dcm")
    before = _dicom_segmentation(tmp_path / "ct")
    path = save_segmentation(before, tmp_path / "m.dcm", source=tmp_path / "ct")
    assert np.array_equal(np.array([0, 1, 3, 7])[read_labels(path, before.volume).labels], before.labels)
