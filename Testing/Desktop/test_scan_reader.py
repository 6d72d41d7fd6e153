"""The process that reads for the window: what it answers for scans, labels, folders and broken files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medquant_desktop import scan_reader


@pytest.fixture
def read(tmp_path: Path):
    """Ask the reader in this process."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    return lambda path="", **more: scan_reader.answer({"path": str(path), "folder": str(folder), **more})


def test_a_scan_comes_with_its_place_and_window(read, scan_file: Path) -> None:
    answer = read(scan_file)
    assert (answer["kind"], answer["name"], answer["modality"], answer["window"]) == (
        "scan",
        "small ct",
        "CT",
        [40, 400],
    )
    array = np.load(answer["array"])
    assert array.shape == (12, 60, 80)
    assert array.dtype == np.int16
    np.testing.assert_allclose(
        answer["ijk_to_lps"], [[2, 0, 0, -80], [0, 2, 0, -60], [0, 0, 5, 100], [0, 0, 0, 1]], atol=1e-9
    )


def test_a_scan_that_was_straightened_says_so(read, scan_file: Path, tmp_path: Path) -> None:
    assert read(scan_file)["told"] == ""
    image = nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), None)
    image.set_sform(np.array([[1.0, 0, 0, 0], [0, 1, 0.001, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 1)
    nibabel.save(image, tmp_path / "lean.nii")
    for _ in range(2):  # opened again, it is said again
        assert "lean.nii are not quite at right angles" in read(tmp_path / "lean.nii")["told"]


def test_the_body_is_found_in_the_air(read, scan_file: Path) -> None:
    first, last = read(scan_file)["body"]
    assert first == [9, 7, 0]
    assert last == [72, 54, 11]


def test_labels_come_on_the_grid_of_the_scan(read, scan_file: Path, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(scan_file))
    labels = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) > 500).astype(np.uint8))
    labels.CopyInformation(image)
    path = tmp_path / "small-labels.nii.gz"
    sitk.WriteImage(sitk.Flip(labels, (True, False, False)), str(path))
    assert "Open its scan first" in read(path)["message"]
    scan = read(scan_file)
    grid = {"shape": [12, 60, 80], "ijk_to_lps": scan["ijk_to_lps"]}
    answer = read(path, labels_on=grid)
    assert answer["kind"] == "labels"
    np.testing.assert_array_equal(np.load(answer["array"]), np.load(scan["array"]) > 500)
    assert answer["names"] == {1: "label 1"}


@pytest.mark.parametrize(
    ("name", "labels"),
    [("labels.nii.gz", True), ("case_seg.nrrd", True), ("a.seg.nrrd", True), ("Mask-2.mha", True),
     ("ct.nii.gz", False), ("segovia.nrrd", False), ("unmasked.nii", False)],
)  # fmt: skip
def test_a_file_says_by_its_name_that_it_holds_labels(tmp_path: Path, name: str, labels: bool) -> None:
    (tmp_path / name).touch()
    assert scan_reader.holds_labels(tmp_path / name) is labels


def test_a_time_series_asks_which_frame(read, tmp_path: Path) -> None:
    path = tmp_path / "four.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 6), np.int16), isVector=False), str(path))
    assert read(path) == {"kind": "choice", "what": "frame", "count": 3}
    assert read(path, frame=2)["kind"] == "scan"


@pytest.mark.parametrize(
    ("name", "content"), [("broken.nii.gz", b"nothing"), ("empty.nrrd", b""), ("notes.txt", b"hello")]
)
def test_what_cannot_be_read_is_a_sentence(read, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    answer = read(tmp_path / name)
    assert answer["kind"] == "error"
    assert name in answer["message"]
    assert "Traceback" not in answer["message"]


def test_integers_that_mrml_cannot_hold_become_narrower() -> None:
    assert scan_reader._for_mrml(np.array([1, -5], np.int64)).dtype == np.int32
    assert scan_reader._for_mrml(np.array([2**40], np.int64)).dtype == np.float64
    assert scan_reader._for_mrml(np.zeros(1, np.float16)).dtype == np.float32


def test_two_series_ask_which_one(read, test_data: Path) -> None:
    answer = read(test_data)
    assert answer["kind"] == "series"
    assert [(one["count"], one["size"]) for one in answer["series"]] == [(20, "512 x 512"), (41, "512 x 512")]
    assert read(test_data, series=1)["kind"] == "scan"
