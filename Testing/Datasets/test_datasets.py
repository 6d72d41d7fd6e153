"""Small synthetic copies of every layout, read back."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medquant.datasets import DATASETS, open_dataset
from medquant.datasets.structures import ABDOMEN_ATLAS, BTCV, WHOLE_BRAIN
from medquant.errors import Notice, UserError

SHAPE = (4, 6, 5)


def write(path: Path, array: np.ndarray, *, flip: bool = False) -> None:
    """A NIfTI file on an oblique-free grid of 2 x 1 x 3 mm; `flip` stores its first axis the other way round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 1.0, 3.0))
    image.SetOrigin((-7.0, 11.0, 5.0))
    sitk.WriteImage(sitk.Flip(image, (True, False, False)) if flip else image, str(path))


def scan(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def label_map(highest: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, highest + 1, SHAPE).astype(np.uint8)


def test_btcv_as_the_challenge_packs_it(tmp_path: Path) -> None:
    raw = tmp_path / "RawData"
    for number in (2, 1):
        write(raw / f"Training/img/img{number:04}.nii.gz", scan(number))
        write(raw / f"Training/label/label{number:04}.nii.gz", label_map(13, number), flip=True)
    write(raw / "Testing/img/img0061.nii.gz", scan(61))
    (raw / "Training/img/._img0001.nii.gz").write_bytes(b"what a Mac leaves")
    data = open_dataset("BTCV", tmp_path)
    assert [(case.name, case.split, case.has_reference) for case in data] == [
        ("img0001", "train", True),
        ("img0002", "train", True),
        ("img0061", "test", False),
    ]
    assert data.splits == ("train", "test") and len(data.with_reference()) == 2
    assert {case.dataset for case in data} == {data.title} == {"BTCV"}
    assert [case.name for case in data.of_split("test")] == ["img0061"]
    assert [case.name for case in data.to_test_on()] == ["img0001", "img0002"]  # no other has a reference
    assert [case.name for case in data[1:]] == ["img0002", "img0061"]
    case = data[0]
    volume, reference = case.volume(), case.reference()
    assert (volume.name, volume.modality, volume.spacing) == ("img0001", "CT", (3.0, 1.0, 2.0))
    np.testing.assert_array_equal(volume.array, scan(1))
    np.testing.assert_array_equal(reference.labels, label_map(13, 1))  # turned to the scan's order of voxels
    assert {s.label: s.name for s in reference.structures} == BTCV
    assert BTCV[6] == "liver" and BTCV[13] == "left adrenal gland"
    with pytest.raises(UserError, match="img0061 has no reference"):
        data[2].reference()
    with pytest.raises(UserError, match=r"no split 'val'\. Choose one of train, test"):
        data.of_split("val")


def test_btcv_as_monai_lays_it_out(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr/img0035.nii.gz", scan())
    write(tmp_path / "labelsTr/label0035.nii.gz", label_map(13))
    write(tmp_path / "imagesTs/img0061.nii.gz", scan())
    data = open_dataset("btcv", tmp_path)
    assert [(case.name, case.split) for case in data] == [("img0035", "train"), ("img0061", "test")]
    np.testing.assert_array_equal(data[0].reference().labels, label_map(13))


def test_what_was_published_to_train_on_does_not_test(tmp_path: Path) -> None:
    for folder, name in (("train", "a"), ("validation", "b"), ("validation", "c")):
        write(tmp_path / folder / f"images/{name}.nii.gz", scan())
        write(tmp_path / folder / f"labels/{name}_seg.nii.gz", label_map(3))
    (tmp_path / "validation/labels/c_seg.nii.gz").unlink()
    assert [case.name for case in open_dataset("wholebrain", tmp_path).to_test_on()] == ["b"]


@pytest.mark.parametrize("delimiter", [";", ","])
def test_totalsegmentator_merges_a_mask_for_each_structure(tmp_path: Path, delimiter: str) -> None:
    organs = label_map(3)
    names = ("aorta", "rib_left_1", "spleen")
    for case in ("s0000", "s0011"):
        write(tmp_path / case / "ct.nii.gz", scan())
        for number, name in enumerate(names, start=1):
            if (case, name) != ("s0011", "aorta"):
                write(tmp_path / case / "segmentations" / f"{name}.nii.gz", (organs == number).astype(np.uint8))
    rows = [["image_id", "age", "split"], ["s0000", "50", "train"], ["s0011", "60", "test"]]
    (tmp_path / "meta.csv").write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8-sig")
    data = open_dataset("totalsegmentator", tmp_path)
    assert [(case.name, case.split) for case in data] == [("s0000", "train"), ("s0011", "test")]
    whole, lacking = data[0].reference(), data[1].reference()
    np.testing.assert_array_equal(whole.labels, organs)
    assert [(s.label, s.name) for s in whole.structures] == [(1, "aorta"), (2, "rib left 1"), (3, "spleen")]
    # numbers are those of the data set: a file that one case lacks does not move them
    np.testing.assert_array_equal(lacking.labels, np.where(organs == 1, 0, organs))
    assert [(s.label, s.name) for s in lacking.structures] == [(2, "rib left 1"), (3, "spleen")]


def test_totalsegmentator_with_headers_that_itk_refuses(tmp_path: Path) -> None:
    """A tenth of its scans: an sform a little off right angles and no qform; masks have it too, or nearly."""
    array, masks = scan(), {"liver": scan(1) > 600, "spleen": scan(2) > 600}
    affine = np.array([[-2.0, 0, 0, 7], [0, -1, 4e-4, -11], [0, 0, 3, 5], [0, 0, 0, 1]])
    nearly = affine * [[1, 1, 1, 1], [1, 1, 0.2, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    files = [("ct", array, affine), ("segmentations/liver", masks["liver"], affine)]
    for name, voxels, matrix in [*files, ("segmentations/spleen", masks["spleen"], nearly)]:
        path = tmp_path / f"s0000/{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels.T.astype(np.int16), matrix), path)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "s0000/ct.nii.gz"))
    case = open_dataset("totalsegmentator", tmp_path)[0]
    with pytest.warns(Notice, match=r"ct\.nii\.gz are not quite at right angles"):
        found = case.reference()
    np.testing.assert_array_equal(found.volume.array, array)
    np.testing.assert_array_equal(found.labels, np.where(masks["spleen"], 2, masks["liver"]))


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_abdomen_atlas_numbers_structures_as_its_combined_labels(tmp_path: Path, apart: bool) -> None:
    images, masks = (tmp_path / "image_only", tmp_path / "mask_only") if apart else (tmp_path, tmp_path)
    liver, stomach, other = (np.zeros(SHAPE, dtype=np.uint8) for _ in range(3))
    liver[:2], stomach[1:3], other[3] = 1, 1, 1  # slice 1 belongs to both
    write(images / "BDMAP_00000007/ct.nii.gz", scan())
    for name, mask in (("liver", liver), ("stomach", stomach), ("appendix", other)):
        write(masks / f"BDMAP_00000007/segmentations/{name}.nii.gz", mask)
    write(masks / "BDMAP_00000007/combined_labels.nii.gz", label_map(25))
    (case,) = open_dataset("abdomenatlas", tmp_path)
    reference = case.reference()
    assert (case.name, case.split) == ("BDMAP_00000007", "")
    assert ABDOMEN_ATLAS[4] == "liver" and ABDOMEN_ATLAS[8] == "stomach" and len(ABDOMEN_ATLAS) == 25
    assert [(s.label, s.name) for s in reference.structures] == [(5, "liver"), (9, "stomach"), (26, "appendix")]
    assert [np.unique(plane).tolist() for plane in reference.labels] == [[5], [9], [9], [26]]


@pytest.mark.parametrize("part", [".", "Image", "AbdomenCT-1K-ImagePart2"])
def test_abdomenct_1k(tmp_path: Path, part: str) -> None:
    write(tmp_path / part / "Case_00101_0000.nii.gz", scan())
    write(tmp_path / "Mask/Case_00101.nii.gz", label_map(4))
    (case,) = open_dataset("abdomenct-1k", tmp_path)
    assert case.name == "Case_00101"
    np.testing.assert_array_equal(case.reference().labels, label_map(4))
    assert [s.name for s in case.reference().structures] == ["liver", "kidney", "spleen", "pancreas"]


def test_whole_brain(tmp_path: Path) -> None:
    for folder, name in (("train", "a.b"), ("validation", "c")):
        write(tmp_path / folder / "images" / f"{name}.nii.gz", scan())
        write(tmp_path / folder / "labels" / f"{name}_seg.nii.gz", label_map(132))
    data = open_dataset("wholebrain", tmp_path)
    assert [(case.name, case.split) for case in data] == [("a.b", "train"), ("c", "val")]
    np.testing.assert_array_equal(data[0].reference().labels, label_map(132))
    assert data[0].volume().modality == "MR"
    # spot checks of the published numbering at both ends and around what has no side
    expected = {3: "right accumbens area", 6: "left amygdala", 7: "brain stem", 29: "left ventral DC"}
    expected |= {34: "right basal forebrain", 35: "right anterior cingulate gyrus", 57: "right gyrus rectus"}
    expected |= {90: "left opercular part of inferior frontal gyrus", 132: "left transverse temporal gyrus"}
    assert {number: WHOLE_BRAIN[number] for number in expected} == expected
    assert list(WHOLE_BRAIN) == list(range(1, 133)) and len(set(WHOLE_BRAIN.values())) == 132


@pytest.mark.parametrize(
    ("described", "ending", "named"),
    [
        (
            {"labels": {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}, "channel_names": {"0": "CT"}}
            | {"file_ending": ".mha"},
            ".mha",
            {1: "liver", 2: "tumour", 3: "label 3"},
        ),
        (
            {"labels": {"0": "background", "1": "liver", "2": "tumour"}, "modality": {"0": "CT"}},
            ".nii.gz",
            {1: "liver", 2: "tumour", 3: "label 3"},
        ),
        ({"labels": {"whole": [1, 2], "core": 2}}, ".nii.gz", {1: "label 1", 2: "core", 3: "label 3"}),
    ],
    ids=["version 2", "version 1", "regions"],
)
def test_nnunet_raw(tmp_path: Path, described: dict, ending: str, named: dict[int, str]) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    for folder, name in (("Tr", "case_01"), ("Ts", "case_02")):
        for channel in (0, 1):
            write(tmp_path / f"images{folder}/{name}_{channel:04}{ending}", scan(channel))
    write(tmp_path / f"labelsTr/case_01{ending}", label_map(3))
    data = open_dataset("nnunet", tmp_path)
    assert [(c.name, c.split, c.has_reference) for c in data] == [
        ("case_01", "train", True),
        ("case_02", "test", False),
    ]
    np.testing.assert_array_equal(data[0].volume().array, scan(0))
    reference = data[0].reference()
    np.testing.assert_array_equal(reference.labels, label_map(3))
    assert {s.label: s.name for s in reference.structures} == named


@pytest.mark.parametrize("name", DATASETS)
def test_another_layout_is_explained(tmp_path: Path, name: str) -> None:
    write(tmp_path / "other/thing.nii.gz", scan())
    with pytest.raises(UserError, match="in its published layout") as told:
        open_dataset(name, tmp_path)
    assert DATASETS[name].looked_for in str(told.value)


def test_unknown_names_and_missing_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Choose one of btcv"):
        open_dataset("amos", tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        open_dataset("btcv", tmp_path / "missing")


def test_a_reference_of_another_scan_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "Mask/Case_00001.nii.gz", label_map(4)[:2])
    write(tmp_path / "Case_00001_0000.nii.gz", scan())
    with pytest.raises(UserError, match="Case_00001"):
        open_dataset("abdomenct-1k", tmp_path)[0].reference()


@pytest.mark.parametrize(
    ("name", "scans", "missing"),
    [
        ("abdomenct-1k", ("Image/Case_00001_0000", "Image/Case_00002_0000"), "labels Case_00001.nii.gz in Mask"),
        ("btcv", ("RawData/Training/img/img0001",), "labels in label/label0001.nii.gz"),
        ("totalsegmentator", ("s0000/ct", "s0001/ct"), "segmentations/STRUCTURE.nii.gz"),
        ("abdomenatlas", ("BDMAP_00000001/ct",), "segmentations/STRUCTURE.nii.gz"),
        ("wholebrain", ("train/images/a",), "labels NAME_seg.nii.gz"),
    ],
)
def test_masks_that_were_not_unpacked_are_told(name: str, scans: tuple[str, ...], missing: str, tmp_path: Path) -> None:
    for path in scans:
        write(tmp_path / f"{path}.nii.gz", scan())
    data = open_dataset(name, tmp_path)
    assert len(data) == len(scans) and not data.with_reference()
    with pytest.raises(UserError, match=r"lacks its masks.*Unpack them there") as told:
        data[:].to_test_on()
    assert missing in str(told.value) and str(tmp_path) in str(told.value)
