"""Pictures: the right colours in the right places, true to scale."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.ndimage import label as components

from medquant.errors import UserError
from medquant.evaluation.compare import ModelFacts, compare, worst_slices
from medquant.evaluation.figures import contact_sheet
from medquant.evaluation.scene import FP32_COLOR, QUANTIZED_COLOR, scene_of

ORGANS = {1: "liver", 2: "spleen"}


@pytest.fixture
def fp32(make_segmentation, two_organs):
    return make_segmentation(two_organs, ORGANS, name="FP32", seconds=7.7)


@pytest.fixture
def other(fp32):
    labels = fp32.labels.copy()
    labels[5, 8:14, 4:12] = 0  # FP32 only
    labels[6, 32:36, 4:12] = 1  # quantized only
    return replace(fp32, labels=labels, model_name="W2")


def near(picture: np.ndarray, color: str) -> np.ndarray:
    wanted = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    return np.abs(picture[..., :3] - wanted).max(axis=-1) < 0.08


def test_scene_tells_what_differs(fp32, other):
    scene = scene_of([fp32, other], 5)
    assert np.count_nonzero(scene.only_fp32(1)) == 48 and not scene.only_other(1).any()
    assert np.count_nonzero(scene_of([fp32, other], 6).only_other(1)) == 32
    assert not scene.only_fp32(0).any()


def test_scene_shows_masks_that_fp32_has_not(fp32, make_segmentation):
    nothing = make_segmentation(np.zeros_like(fp32.labels), ORGANS)
    assert np.count_nonzero(scene_of([nothing, fp32], 5).labels[1]) == np.count_nonzero(fp32.labels[5])


def test_each_slice_has_outlines_above_and_coloured_differences_below(fp32, other, tmp_path):
    picture = imread(contact_sheet(tmp_path / "slices.png", [fp32, other], indices=[5, 6]))
    panels = picture[round(0.8 * 160) :]  # below the captions
    height, width = panels.shape[0] // 4, panels.shape[1] // 2
    left, right = (
        [panels[n * height + 20 : (n + 1) * height - 20, c * width :][:, :width] for n in range(4)] for c in (0, 1)
    )
    for row in (0, 2):
        assert near(left[row], FP32_COLOR).any() and not near(left[row], QUANTIZED_COLOR).any()
        assert near(right[row], QUANTIZED_COLOR).any() and not near(right[row], FP32_COLOR).any()
    assert near(right[1], FP32_COLOR).sum() > 500 and not near(right[1], QUANTIZED_COLOR).any()
    assert near(right[3], QUANTIZED_COLOR).sum() > 500 and not near(right[3], FP32_COLOR).any()


def test_the_slices_that_differ_most_are_drawn(fp32, other, make_segmentation, tmp_path):
    labels = fp32.labels.copy()
    labels[[2, 6, 9], 8:20, 4:12] = 0
    worse = replace(fp32, labels=labels, model_name="W1")
    assert worst_slices([fp32, worse, other], 3) == worst_slices([fp32, other, worse], 3) == [2, 6, 9]
    heights = [imread(contact_sheet(tmp_path / f"{n}.png", [fp32, worse, other], slices=n)).shape[0] for n in (1, 3)]
    assert heights[1] > 2.5 * (heights[0] - 0.9 * 160)


def test_voxels_are_drawn_true_to_scale(make_segmentation, tmp_path):
    labels = np.zeros((3, 20, 60), dtype=np.uint8)
    labels[1, 5:15, 10:50] = 1  # 30 mm high, 40 mm wide
    fp32 = make_segmentation(labels, ORGANS, spacing=(5.0, 3.0, 1.0), name="FP32")
    empty = replace(fp32, labels=np.zeros_like(labels))
    picture = imread(contact_sheet(tmp_path / "scale.png", [fp32, empty], indices=[1]))
    regions, count = components(near(picture[:, picture.shape[1] // 2 :], FP32_COLOR))
    largest = regions == 1 + np.argmax([np.count_nonzero(regions == n + 1) for n in range(count)])
    height, width = np.ptp(np.flatnonzero(largest.any(axis=1))) + 1, np.ptp(np.flatnonzero(largest.any(axis=0))) + 1
    assert width / height == pytest.approx(40 / 30, rel=0.03)


def test_a_contact_sheet_tells_size_and_dice(fp32, other, tmp_path):
    facts = [
        ModelFacts(weight_bits=32, effective_bits=32.0, bytes_on_disk=8_000_000),
        ModelFacts(weight_bits=2, effective_bits=2.2, bytes_on_disk=700_000, simulated=True),
    ]
    with_captions = contact_sheet(tmp_path / "a.png", [fp32, other], comparison=compare([fp32, other], facts=facts))
    without = contact_sheet(tmp_path / "b.png", [fp32, other])
    top = [imread(path)[: round(0.75 * 160)] for path in (with_captions, without)]
    assert np.count_nonzero(np.abs(top[0] - top[1]).max(-1) > 0.2) > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_slice_outside_the_scan_is_refused(fp32, other, tmp_path):
    with pytest.raises(UserError, match="from 0 to 11"):
        contact_sheet(tmp_path / "x.png", [fp32, other], indices=[12])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(fp32, other, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        contact_sheet(tmp_path / "file" / "x.png", [fp32, other], indices=[5])


def test_no_global_plotting_state():
    code = "import sys, medquant.evaluation.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.data
def test_pictures_of_a_real_scan(test_data, tmp_path):
    from medquant.imaging.labels import read_labels
    from medquant.imaging.reading import read_volume

    folder = test_data / "ct_abdomen_dicom"
    volume = read_volume(folder / "series")
    labels = read_labels(folder / "labels.nii.gz", volume, names={1: "spleen", 5: "liver", 6: "stomach"})
    scene = scene_of([labels], 10)
    assert scene.view.edges == ("R", "L", "A", "P")
    liver, spleen = (np.flatnonzero((scene.labels[0] == n).any(axis=0)).mean() for n in (5, 1))
    assert liver < spleen  # the liver is on image left
    spine = np.flatnonzero((scene.labels[0] == 32).any(axis=1)).mean()  # a vertebra
    stomach = np.flatnonzero((scene.labels[0] == 6).any(axis=1)).mean()
    assert stomach < spine  # anterior is up
    assert imread(contact_sheet(tmp_path / "real.png", [labels, labels])).shape[0] > 300


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_a_picture_is_what_its_name_says(fp32, other, tmp_path, name: str, begins: bytes):
    assert contact_sheet(tmp_path / name, [fp32, other]).read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["a", "a.bmp"])
def test_a_name_that_is_no_pictures_is_refused(fp32, other, tmp_path, name: str):
    with pytest.raises(UserError, match=r"\.png, \.svg or \.pdf"):
        contact_sheet(tmp_path / name, [fp32, other])
    assert not list(tmp_path.iterdir())
