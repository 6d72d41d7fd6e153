"""Axes a rounding error off right angles, as in headers of public data sets: read, said, and never by much."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medquant.errors import Notice, UserError
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.straighten import nearest_right_angled

SHAPE = (60, 50, 40)
"""Voxels along i, j, k."""


def sheared(shear: float, *, spacing: float = 1.5) -> np.ndarray:
    """A RAS matrix that is turned by 0.2 about the first axis, and whose last axis leans on the second by `shear`."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 0.2).as_matrix() @ [[1, 0, 0], [0, 1, shear], [0, 0, 1]] * spacing
    affine[:3, 3] = (-40, 20, 300)
    return affine


def write(path: Path, array: np.ndarray, affine: np.ndarray, *, big_endian: bool = False) -> None:
    """A file with an sform and no qform, as those that ITK refuses have it."""
    header = nibabel.Nifti1Header(endianness=">" if big_endian else "<")
    header.set_data_dtype(array.dtype)
    image = nibabel.Nifti1Image(array, affine, header)
    image.set_sform(affine, 2)
    image.header["qform_code"] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


@pytest.fixture
def voxels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-1000, 1000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("big_endian", [False, True], ids=["little", "big"])
def test_a_scan_that_is_hardly_sheared_is_read_and_this_is_said(
    suffix: str, big_endian: bool, tmp_path: Path, voxels: np.ndarray
) -> None:
    path = tmp_path / f"ct{suffix}"
    write(path, voxels, sheared(0.001), big_endian=big_endian)
    before = path.read_bytes()
    with pytest.warns(Notice, match=rf"ct\{suffix} are not quite at right angles.*more than 0\.0[1-9] of its size"):
        volume = read_volume(path)
    assert np.array_equal(volume.array, voxels.T)
    assert path.read_bytes() == before
    direction = volume.direction
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    corners = np.array([(i, j, k, 1) for i in (0, 59) for j in (0, 49) for k in (0, 39)], float).T
    stored = nibabel.load(path).affine
    moved = np.linalg.solve(stored, volume.ras_affine @ corners) - corners
    assert 1e-3 < np.abs(moved).max() < 0.05


def test_what_is_really_sheared_stays_refused(tmp_path: Path, voxels: np.ndarray) -> None:
    """Half of a lean by 0.1 over 40 slices of 50 rows is more than two voxels."""
    write(tmp_path / "tilted.nii.gz", voxels, sheared(0.1))
    with pytest.raises(UserError, match=r"not at right angles \(a sheared grid\).*Resample it"):
        read_volume(tmp_path / "tilted.nii.gz")


@pytest.mark.parametrize("lean", [0.0, 0.00009, 0.001, 0.004], ids=str)
def test_labels_beside_it_fit_voxel_on_voxel(lean: float, tmp_path: Path, voxels: np.ndarray) -> None:
    """Those with the same header, and those with nearly the same, which ITK may read as they are."""
    labels = (voxels > 500).astype(np.uint8) + (voxels < -500)
    write(tmp_path / "ct.nii.gz", voxels, sheared(0.001))
    write(tmp_path / "labels.nii.gz", labels, sheared(lean))
    with pytest.warns(Notice):
        volume = read_volume(tmp_path / "ct.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the scan has told it
        found = read_labels(tmp_path / "labels.nii.gz", volume)
    assert np.array_equal(found.labels, labels.T)
    assert ("resampled" in found.model_name) == (lean == 0.004)


def test_time_points_of_such_a_scan(tmp_path: Path, rng: np.random.Generator) -> None:
    series = rng.random((*SHAPE, 2), dtype=np.float32)
    write(tmp_path / "series.nii", series, sheared(0.001))
    with pytest.warns(Notice):
        assert np.array_equal(read_volume(tmp_path / "series.nii", frame=1).array, series[..., 1].T)


@settings(max_examples=50, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    leans=st.tuples(*[st.floats(-0.01, 0.01)] * 3),
    mirrored=st.booleans(),
)
def test_the_nearest_grid_keeps_centre_spacing_and_hand_and_no_turn_is_nearer(
    angles: tuple[float, ...], spacing: tuple[float, ...], leans: tuple[float, ...], mirrored: bool
) -> None:
    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([-1.0 if mirrored else 1.0, 1, 1])
    shear = np.eye(3) + np.array([[0, leans[0], leans[1]], [0, 0, leans[2]], [0, 0, 0]])
    directions = turned @ shear / np.linalg.norm(shear, axis=0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, (5, -6, 7)
    nearest, moved = nearest_right_angled(affine, np.array(spacing), SHAPE)
    found = nearest[:3, :3] / spacing
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)
    assert np.linalg.det(found) * np.linalg.det(directions) > 0
    centre = [*((np.array(SHAPE) - 1) / 2), 1]
    np.testing.assert_allclose(nearest @ centre, affine @ centre, atol=1e-6)
    for axis in np.eye(3):
        nudged = Rotation.from_rotvec(1e-3 * axis).as_matrix() @ found
        assert np.linalg.norm(nudged - directions) >= np.linalg.norm(found - directions)
    corners = np.array([(i, j, k, 1) for i in (0, 59) for j in (0, 49) for k in (0, 39)], float).T
    steps = np.linalg.norm((nearest - affine) @ corners, axis=0) / min(spacing)
    assert moved <= 1.05 * steps.max() + 1e-9


def test_a_command_says_it_once_and_goes_on(tmp_path: Path, voxels: np.ndarray, capfd: pytest.CaptureFixture) -> None:
    from typer.testing import CliRunner

    from medquant.cli import app

    write(tmp_path / "labels.nii.gz", (voxels > 0).astype(np.uint8), sheared(0.001))
    command = ["export-mask", str(tmp_path / "labels.nii.gz"), "--to", "mha", "--output", str(tmp_path / "m.mha")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("not quite at right angles") == 1 and "Warning" not in result.stderr
    assert np.array_equal(read_volume(tmp_path / "m.mha").array, (voxels > 0).T)
