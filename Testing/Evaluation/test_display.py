"""Slices as a radiologist looks at them, whatever the orientation of the scan."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medquant.evaluation.display import field_of_view, outlines, outlines_of_labels, runs, view_of
from medquant.imaging.volume import Volume

SPACING_LPS = (0.7, 0.9, 3.0)  # mm along left, posterior, head
SHAPE_LPS = (30, 24, 10)


def oriented(order: tuple[int, int, int], signs: tuple[int, int, int]) -> Volume:
    """One patient, stored with the patient axis `order[n]` along index axis n (i, j, k), in direction `signs[n]`.

    A voxel holds its own position: 10000 left + 100 posterior + head.
    """
    left, posterior, head = np.meshgrid(*[np.arange(n) for n in SHAPE_LPS], indexing="ij")
    patient = 10000 * left + 100 * posterior + head
    stored = patient.transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (patient_axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[patient_axis, axis] = sign * SPACING_LPS[patient_axis]
        if sign < 0:
            stored = np.flip(stored, axis)
    return Volume(np.ascontiguousarray(stored.transpose(2, 1, 0)), affine)


ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_gives_the_same_pictures(order, signs):
    volume = oriented(order, signs)
    for patient_axis, plane in enumerate(("sagittal", "coronal", "axial")):
        axis = 2 - order.index(patient_axis)
        view = view_of(volume, axis)
        picture = view.cut(volume.array, 4)
        left, posterior, head = picture // 10000, picture // 100 % 100, picture % 100
        assert view.plane == plane
        if plane == "axial":  # patient right on image left, anterior up
            assert (np.diff(left, axis=1) == 1).all() and (np.diff(posterior, axis=0) == 1).all()
            assert view.edges == ("R", "L", "A", "P")
            assert (view.column_mm, view.row_mm) == pytest.approx((0.7, 0.9))
        elif plane == "coronal":  # patient right on image left, head up
            assert (np.diff(left, axis=1) == 1).all() and (np.diff(head, axis=0) == -1).all()
            assert view.edges == ("R", "L", "S", "I")
        else:  # anterior on image left, head up
            assert (np.diff(posterior, axis=1) == 1).all() and (np.diff(head, axis=0) == -1).all()
            assert view.edges == ("A", "P", "S", "I")


def test_the_default_is_axial():
    assert view_of(oriented((2, 0, 1), (1, -1, 1))).plane == "axial"


def test_an_oblique_scan_is_shown_the_nearest_way():
    angle = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.0, 2.5])
    view = view_of(Volume(np.zeros((4, 5, 6)), affine))
    assert view.plane == "axial" and view.slices.flip_columns and not view.slices.flip_rows
    assert (view.row_mm, view.column_mm) == pytest.approx((1.0, 1.0))


# Outlines and areas


def _enclosed(line: np.ndarray) -> float:
    x, y = line[:-1].T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def test_outline_of_a_rectangle_runs_along_its_voxels():
    mask = np.zeros((12, 15), dtype=bool)
    mask[3:7, 5:11] = True
    (line,) = outlines(mask)
    assert tuple(line.min(axis=0)) == (5, 3) and tuple(line.max(axis=0)) == (11, 7)
    assert np.array_equal(line[0], line[-1])
    assert abs(_enclosed(line)) == pytest.approx(24, abs=0.6)  # the corners are cut


def test_outlines_close_at_the_border_and_go_round_holes():
    mask = np.ones((9, 9), dtype=bool)
    mask[4, 4] = False
    inner, outer = sorted(outlines(mask), key=len)
    assert np.sign(_enclosed(inner)) == -np.sign(_enclosed(outer))
    assert outer.min() == 0 and outer.max() == 9
    assert outlines(np.zeros((4, 4), bool)) == []


def test_neighbouring_labels_have_outlines_of_their_own():
    labels = np.zeros((8, 8), dtype=np.uint8)
    labels[2:6, 1:4], labels[2:6, 4:7] = 1, 2
    assert len(outlines_of_labels(labels)) == 2


@settings(max_examples=50, deadline=None)
@given(arrays(np.bool_, (6, 9), elements=st.booleans()))
def test_runs_cover_a_mask_exactly_once(mask):
    drawn = np.zeros(mask.shape, dtype=int)
    for row, start, count in runs(mask):
        drawn[row, start : start + count] += 1
    assert np.array_equal(drawn, mask.astype(int))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99), st.integers(0, 79), st.integers(1, 40), st.integers(1, 40))
def test_the_field_of_view_holds_the_masks(row, column, height, width):
    mask = np.zeros((100, 80), dtype=bool)
    mask[row : row + height, column : column + width] = True
    view = view_of(Volume(np.zeros((3, 100, 80)), np.diag([0.8, 1.3, 4, 1])))
    rows, columns = field_of_view([mask], view, margin_mm=5, least_mm=20)
    assert 0 <= rows.start < rows.stop <= 100 and 0 <= columns.start < columns.stop <= 80
    assert np.count_nonzero(mask[rows, columns]) == np.count_nonzero(mask)


def test_the_field_of_view_of_nothing_is_everything():
    view = view_of(Volume(np.zeros((3, 10, 8)), np.eye(4)))
    assert field_of_view([np.zeros((10, 8), bool)], view) == (slice(0, 10), slice(0, 8))
