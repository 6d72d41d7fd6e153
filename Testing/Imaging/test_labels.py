"""Masks: on the scan's own grid to the voxel, into every format and back."""

from __future__ import annotations

from collections.abc import Callable
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
from medquant.imaging.lattice import onto_grid
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation
from medquant.segmentation import Segmentation

FILES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")


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


@settings(max_examples=40, deadline=None)
@given(volume=volumes(), suffix=st.sampled_from(FILES), seed=st.integers(0, 99))
def test_masks_come_back_to_the_voxel(
    tmp_path_factory: pytest.TempPathFactory, volume: Volume, suffix: str, seed: int, draw_mask: Callable
) -> None:
    before = draw_mask(volume, seed)
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
    tmp_path_factory: pytest.TempPathFactory, volume: Volume, seed: int, draw_mask: Callable
) -> None:
    before = draw_mask(volume, seed)
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
    volume: Volume, order: list[int], flips: tuple[bool, ...], larger: tuple[int, ...], seed: int, draw_mask: Callable
) -> None:
    expected = draw_mask(volume, seed).labels
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


def test_another_grid_is_resampled_and_says_so(tmp_path: Path, scan: Volume, draw_mask: Callable) -> None:
    volume = Volume(np.zeros((6, 20, 20), np.int16), scan.affine)
    fine = volume.affine.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= fine[:3, :3].sum(axis=1) / 2  # the finer grid's voxels halve the scan's: same field of view
    labels = np.kron(draw_mask(volume).labels, np.ones((2, 2, 2), np.uint8))
    sitk.WriteImage(image_of(labels, fine), str(tmp_path / "fine.nrrd"))
    found = read_labels(tmp_path / "fine.nrrd", volume)
    assert "resampled" in found.model_name
    assert np.array_equal(found.labels, draw_mask(volume).labels)


def test_labels_that_do_not_cover_the_scan_arerefused(tmp_path: Path, scan: Volume, draw_mask: Callable) -> None:
    volume = scan
    labels = draw_mask(volume).labels
    sitk.WriteImage(image_of(labels[:-1], volume.affine), str(tmp_path / "short.nii.gz"))
    with pytest.raises(UserError, match="does not cover the scan"):
        read_labels(tmp_path / "short.nii.gz", volume)
    far = volume.affine.copy()
    far[:3, 3] += 500
    sitk.WriteImage(image_of(labels, far), str(tmp_path / "far.nii.gz"))
    with pytest.raises(UserError, match="does not cover the scan"):
        read_labels(tmp_path / "far.nii.gz", volume)


def test_what_is_no_label_map_isrefused(tmp_path: Path, scan: Volume) -> None:
    volume = scan
    for number, values in enumerate((0.5, -1, np.nan)):
        path = tmp_path / f"{number}.nrrd"
        sitk.WriteImage(image_of(np.full(volume.shape, values, np.float32), volume.affine), str(path))
        with pytest.raises(UserError, match="not a label map"):
            read_labels(path, volume)
    with pytest.raises(UserError, match="no file"):
        read_labels(tmp_path / "gone.nrrd", volume)


@pytest.mark.parametrize("suffix", FILES)
def test_an_empty_mask_is_a_mask(tmp_path: Path, scan: Volume, suffix: str) -> None:
    path = save_segmentation(Segmentation(np.zeros(scan.shape, bool), scan, ()), tmp_path / f"mask{suffix}")
    found = read_labels(path, scan)
    assert not found.labels.any()
    assert found.structures == ()


def test_names_can_be_given(tmp_path: Path, scan: Volume, draw_mask: Callable) -> None:
    before = draw_mask(scan)
    path = save_segmentation(before, tmp_path / "mask.nii.gz")
    names = [each.name for each in read_labels(path, before.volume, names={1: "spleen"}).structures]
    assert names == ["spleen", "label 3", "label 7"]


def test_slicer_header_fields(tmp_path: Path, scan: Volume, draw_mask: Callable) -> None:
    volume = scan
    labels = np.zeros(volume.shape, np.uint8)
    labels[1:3, 2:5, 3:8] = 3
    path = save_segmentation(Segmentation(labels, volume, draw_mask(volume).structures), tmp_path / "mask.seg.nrrd")
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


def test_slicer_files_cropped_and_in_layers_are_read(tmp_path: Path, scan: Volume) -> None:
    volume = scan
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


def changed_fields(path: Path, changes: dict[str, str]) -> Path:
    image = sitk.ReadImage(str(path))
    for key, value in changes.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("LabelValue", "one"), ("LabelValue", "0"), ("LabelValue", "-2"), ("LabelValue", "4000000000"),
        ("LabelValue", "1.5"), ("Layer", "1"), ("Layer", "-1"), ("Layer", "x"),
        ("Color", "red"), ("Color", "1 0"), ("Color", "0 0 nan"), ("Color", "0 0 255"),
    ],
)  # fmt: skip
def test_broken_fields_of_slicer_files_are_named(
    tmp_path: Path, scan: Volume, draw_mask: Callable, field: str, value: str
) -> None:
    path = save_segmentation(draw_mask(scan), tmp_path / "mask.seg.nrrd")
    with pytest.raises(UserError, match=rf"Segment 2 of the \.seg\.nrrd file has the {field} '{value}'"):
        read_labels(changed_fields(path, {f"Segment1_{field}": value}), scan)


@pytest.mark.parametrize("other", [-5, 60_000, 2**31 - 1])
def test_values_that_no_segment_has_are_background(
    tmp_path: Path, scan: Volume, draw_mask: Callable, other: int
) -> None:
    before = draw_mask(scan)
    path = save_segmentation(before, tmp_path / "mask.seg.nrrd")
    stored = sitk.ReadImage(str(path))
    image = sitk.GetImageFromArray(np.where(before.labels == 0, other, before.labels).astype(np.int32))
    image.CopyInformation(stored)
    for key in stored.GetMetaDataKeys():
        if key.startswith("Segment"):
            image.SetMetaData(key, stored.GetMetaData(key))
    sitk.WriteImage(image, str(path))
    assert np.array_equal(read_labels(path, scan).labels, before.labels)


def test_labels_without_a_name_and_large_labels_are_written(tmp_path: Path, scan: Volume) -> None:
    volume = scan
    labels = np.zeros(volume.shape, np.int64)
    labels[0, 0, 0], labels[1, 1, 1] = 4, 300
    path = save_segmentation(Segmentation(labels, volume, ()), tmp_path / "mask.seg.nrrd")
    found = read_labels(path, volume)
    assert np.array_equal(found.labels, labels)
    assert [each.name for each in found.structures] == ["label 4", "label 300"]


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
