"""Boxes in indices and in the world, on any grid; what a box may not be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medquant.errors import UserError
from medquant.imaging.boxes import boxes_from_labels, plane_of, resolve_box, slice_axis_of
from medquant.imaging.volume import Volume
from medquant.prompts import Box
from medquant.segmentation import Structure


def _volume(
    angles: tuple[float, float, float] = (0, 0, 0),
    order: tuple[int, ...] = (0, 1, 2),
    flips: tuple[float, ...] = (1, 1, 1),
    spacing: tuple[float, ...] = (0.7, 0.8, 2.5),
    shape: tuple[int, int, int] = (10, 20, 30),
) -> Volume:
    """Columns of the matrix are world axes `order`, flipped by `flips`; spacing along (i, j, k)."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.eye(3)[:, list(order)] @ np.diag(flips) * spacing
    affine[:3, 3] = (-40, 10, 300)
    return Volume(np.zeros(shape, np.int16), affine)


grids = st.builds(
    _volume,
    st.tuples(*[st.floats(-20, 20, allow_subnormal=False)] * 3),
    st.permutations(range(3)).map(tuple),
    st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),
)


@settings(max_examples=60, deadline=None)
@given(volume=grids, data=st.data())
def test_a_world_box_holds_both_of_its_corner_voxels(volume: Volume, data: st.DataObject) -> None:
    size = volume.shape[::-1]
    first, second = (np.array([data.draw(st.integers(0, n - 1)) for n in size]) for _ in range(2))
    world = [(volume.affine @ (*index, 1))[:3] for index in (first, second)]
    box = Box(tuple(np.minimum(*world)), tuple(np.maximum(*world)), space="world")
    lower, upper, axis = resolve_box(box, volume)
    assert (np.array(lower) <= np.minimum(first, second)).all()
    assert (np.array(upper) >= np.maximum(first, second)).all()
    assert axis in (0, 1, 2)
    # Exactly the bounding index box of the eight corners, rounded and clipped.
    corners = np.array(list(itertools.product(*zip(box.lower, box.upper))))
    index = np.linalg.inv(volume.affine) @ np.c_[corners, np.ones(8)].T
    assert np.allclose(lower, np.clip(np.floor(index[:3].min(1) + 0.5), 0, None))
    assert np.allclose(upper, np.minimum(np.floor(index[:3].max(1) + 0.5), np.array(size) - 1))


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_planes_follow_the_patient_not_the_array(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    volume = _volume(angles=(8, -12, 15), order=order, flips=flips)
    for plane, world in (("sagittal", 0), ("coronal", 1), ("axial", 2)):
        axis = slice_axis_of(volume, plane)
        assert order[2 - axis] == world
        assert plane_of(volume, axis) == plane
    assert slice_axis_of(volume) == 0, "k is the thickest"


def test_at_45_degrees_the_planes_still_differ() -> None:
    volume = _volume(angles=(45, 0, 0))
    assert {slice_axis_of(volume, plane) for plane in ("axial", "coronal", "sagittal")} == {0, 1, 2}


def test_without_a_plane_the_thickest_spacing_or_axial_decides() -> None:
    assert slice_axis_of(_volume(spacing=(0.8, 3.0, 0.8))) == 1
    assert slice_axis_of(_volume(spacing=(1, 1, 1))) == 0
    assert slice_axis_of(_volume(spacing=(1, 1, 1), order=(2, 0, 1))) == 2, "i runs along head-feet"
    assert slice_axis_of(_volume(spacing=(1.0, 1.0, 0.9))) == 0, "two are as thick: axial"


def test_index_boxes_are_inclusive_and_clipped() -> None:
    volume = _volume()
    assert resolve_box(Box((2, 3, 4), (12, 13, 4)), volume) == ((2, 3, 4), (12, 13, 4), 0)
    assert resolve_box(Box((-5, 3.4, 4), (99, 12.6, 99)), volume) == ((0, 3, 4), (29, 13, 9), 0)
    assert resolve_box(Box((2, 3, 4), (12, 3, 6), plane="coronal"), volume) == ((2, 3, 4), (12, 3, 6), 1)


@pytest.mark.parametrize("space", ["ijk", "world"])
@pytest.mark.parametrize(
    ("lower", "upper"), [((5, 6, 7), (5, 6, 7)), ((5, 6, 7), (9, 6, 8)), ((29, 19, 9), (29, 19, 9))]
)
def test_equal_corners_are_one_voxel(lower: tuple, upper: tuple, space: str) -> None:
    volume = _volume()
    corners = (lower, upper) if space == "ijk" else [tuple((volume.affine @ (*c, 1))[:3]) for c in (lower, upper)]
    assert resolve_box(Box(*corners, space=space), volume) == (lower, upper, 0)


def test_a_box_that_reaches_the_first_voxel_has_that_one() -> None:
    assert resolve_box(Box((-20, 5, 2), (0, 9, 4)), _volume()) == ((0, 5, 2), (0, 9, 4), 0)


@pytest.mark.parametrize(
    ("lower", "upper", "words"),
    [
        ((9, 5, 2), (5, 9, 4), "ends before it begins"),
        ((40, 5, 2), (50, 9, 4), "outside the scan"),
        ((-20, 5, 2), (-10, 9, 4), "outside the scan"),
        ((5, 5, 10), (9, 9, 12), "outside the scan"),
        ((float("nan"), 5, 2), (9, 9, 4), "two corners"),
        ((5, 5, 2), (9, float("inf"), 4), "two corners"),
    ],
)
def test_boxes_that_mean_nothing(lower: tuple, upper: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_box(Box(lower, upper, name="liver"), _volume())


def test_unknown_plane_and_space() -> None:
    with pytest.raises(UserError, match="axial, coronal or sagittal"):
        resolve_box(Box((1, 1, 1), (5, 5, 5), plane="oblique"), _volume())
    with pytest.raises(UserError, match="ijk or world"):
        resolve_box(Box((1, 1, 1), (5, 5, 5), space="ras"), _volume())


@settings(max_examples=40, deadline=None)
@given(volume=grids, plane=st.sampled_from([None, "axial", "coronal", "sagittal"]), seed=st.integers(0, 99))
def test_boxes_from_labels_hold_every_voxel_tightly(volume: Volume, plane: str | None, seed: int) -> None:
    labels = (np.random.default_rng(seed).random(volume.shape) > 0.999).astype(np.uint8) * 5
    labels[4, 6:9, 7:12] = 5
    structure = Structure(5, "spleen")
    (box,) = boxes_from_labels(labels, volume, [structure], plane=plane).boxes
    found = np.argwhere(labels)[:, ::-1]
    assert (box.lower, box.upper) == (tuple(found.min(0)), tuple(found.max(0))) or (np.ptp(found, axis=0) == 0).any(), (
        "only boxes one voxel wide may grow"
    )
    per_slice = boxes_from_labels(labels, volume, [structure], plane=plane, per_slice=True).boxes
    covered = np.zeros(volume.shape, bool)
    for each in per_slice:
        lower, upper, axis = resolve_box(each, volume)
        assert lower[2 - axis] == upper[2 - axis]
        covered[tuple(slice(a, b + 1) for a, b in zip(lower[::-1], upper[::-1]))] = True
    assert covered[labels > 0].all()
    assert len(per_slice) == len(np.unique(found[:, 2 - axis]))


def test_margin_grows_within_the_slice_and_stays_on_the_scan() -> None:
    volume = _volume()
    labels = np.zeros(volume.shape, np.uint8)
    labels[3:5, 1:6, 10:20] = 2
    structures = [Structure(2, "liver"), Structure(3, "not there")]
    (box,) = boxes_from_labels(labels, volume, structures, margin=3).boxes
    assert (box.lower, box.upper) == ((7, 0, 3), (22, 8, 4))
    assert (box.label, box.name, box.plane) == (2, "liver", "axial")
    (box,) = boxes_from_labels(labels > 0, volume, [Structure(1, "liver")], margin=3).boxes
    assert (box.lower, box.upper) == ((7, 0, 3), (22, 8, 4))


def test_single_voxels_become_boxes_that_resolve() -> None:
    volume = _volume()
    labels = np.zeros(volume.shape, np.uint8)
    labels[9, 19, 29] = 1
    (box,) = boxes_from_labels(labels, volume, [Structure(1, "dot")]).boxes
    assert resolve_box(box, volume) == ((28, 18, 9), (29, 19, 9), 0)


def test_no_voxels_and_another_grid_are_refused() -> None:
    volume = _volume()
    with pytest.raises(UserError, match="None of the structures"):
        boxes_from_labels(np.zeros(volume.shape, np.uint8), volume, [Structure(1, "liver")])
    with pytest.raises(UserError, match="scan's grid"):
        boxes_from_labels(np.zeros((2, 2, 2), np.uint8), volume, [Structure(1, "liver")])


def test_a_box_on_the_faces_of_voxels_holds_these_voxels() -> None:
    volume = Volume(np.zeros((40, 60, 50), np.float32), np.diag([0.7, 0.9, 2.3, 1.0]), name="scan")
    first, last = np.array([12, 20, 5]), np.array([30, 41, 38])
    for space, lower, upper in (
        ("ijk", first - 0.5, last + 0.5),
        ("world", *((volume.affine @ [*face, 1.0])[:3] for face in (first - 0.5, last + 0.5))),
    ):
        found = resolve_box(Box(tuple(lower), tuple(upper), label=1, name="organ", space=space), volume)
        assert found[:2] == (tuple(first), tuple(last))
    point = Box((12.5, 20.0, 5.0), (12.5, 20.0, 5.0), label=1, name="organ")
    assert resolve_box(point, volume)[0] == resolve_box(point, volume)[1] == (13, 20, 5)
