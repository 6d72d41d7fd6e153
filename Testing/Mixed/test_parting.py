"""No voxel of a scan both calibrates and checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medquant.errors import UserError
from medquant.imaging.boxes import resolve_box
from medquant.imaging.volume import Volume
from medquant.mixed.parting import Parting, by_slabs, by_slices, held_out_of
from medquant.models.base import CalibrationSelection
from medquant.prompts import Box, BoxPrompt

TURNS = [(0, 1, 2), (2, 0, 1), (1, 2, 0)]
"""The patient axis that i, j and k run along."""


@st.composite
def scans(draw: st.DrawFn) -> Volume:
    """A scan of any order of axes, every voxel of which has a number of its own."""
    shape = draw(st.tuples(*(st.integers(9, 16) for _ in range(3))))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, patient in enumerate(draw(st.sampled_from(TURNS))):
        affine[patient, column] = draw(st.sampled_from([-3.0, -1.0, 1.0, 1.5]))
    return Volume(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), affine, name="scan", modality="MR")


@st.composite
def prompts(draw: st.DrawFn) -> BoxPrompt:
    """Boxes of one or two structures, in any plane."""
    boxes = []
    for label in range(1, draw(st.integers(1, 2)) + 1):
        ends = [sorted(draw(st.tuples(st.integers(0, 8), st.integers(0, 8)))) for _ in range(3)]
        plane = draw(st.sampled_from([None, "axial", "coronal", "sagittal"]))
        boxes.append(Box(*zip(*ends, strict=True), label=label, name=f"box {label}", plane=plane))
    return BoxPrompt(tuple(boxes))


SELECTIONS = st.builds(CalibrationSelection, count=st.integers(2, 12), where=st.sampled_from(["body", "even"]))
RANGES = st.builds(
    CalibrationSelection, count=st.integers(2, 6), where=st.just("range"), first=st.just(1), last=st.just(7)
)


def _checked(part: Parting) -> set[int]:
    """The numbers of the voxels of every slice that a box is on."""
    seen: set[int] = set()
    for box in part.prompt.boxes:
        lower, upper, axis = resolve_box(box, part.checking)
        assert lower[2 - axis] == upper[2 - axis], "a box of one slice"
        seen |= set(part.checking.array.take(lower[2 - axis], axis).ravel().tolist())
    return seen


@settings(max_examples=60, deadline=None)
@given(scans(), SELECTIONS | RANGES, st.none() | prompts())
def test_slices_that_check_share_no_voxel_with_what_calibrates(
    scan: Volume, selection: CalibrationSelection, prompt: BoxPrompt | None
) -> None:
    try:
        part = by_slices(scan, selection, prompt)
    except UserError as error:
        assert "too small to hold anything out" in str(error)
        return
    calibrating = set(part.calibrating.array.ravel().tolist())
    assert calibrating and part.prompt.boxes and not calibrating & _checked(part)
    assert part.selection.count == selection.count - held_out_of(selection.count)
    labels = {box.label for box in prompt.boxes} if prompt else {box.label for box in part.prompt.boxes}
    assert {box.label for box in part.prompt.boxes} == labels, "every structure is looked at"
    if selection.where == "range" and prompt is None:
        assert part.slices <= 7


@settings(max_examples=40, deadline=None)
@given(scans(), SELECTIONS | RANGES)
def test_slabs_that_check_share_no_voxel_with_what_calibrates(scan: Volume, selection: CalibrationSelection) -> None:
    try:
        parts = list(by_slabs(scan, selection))
    except UserError as error:
        assert "too small" in str(error) and selection.where == "range"
        return
    for part in parts:
        calibrating, checking = (set(one.array.ravel().tolist()) for one in (part.calibrating, part.checking))
        assert calibrating and checking and not calibrating & checking
        assert 2 * len(checking) <= len(calibrating) and part.checking.shape[scan.slice_axis] == part.slices
        for block in (part.calibrating, part.checking):  # where it lies in the patient
            index = np.argwhere(scan.array == block.array[0, 0, 0])[0][::-1]
            np.testing.assert_allclose(block.origin, (scan.affine @ [*index, 1])[:3])


def test_a_scan_that_is_too_small_is_said() -> None:
    flat = Volume(np.arange(64, dtype=np.int16).reshape(1, 8, 8), np.eye(4), name="flat", modality="MR")
    with pytest.raises(UserError, match="flat is too small to hold anything out"):
        by_slices(flat, CalibrationSelection(), BoxPrompt((Box((1, 1, 0), (5, 5, 0)),)))
    with pytest.raises(UserError, match="flat is too small to hold anything out"):
        next(by_slabs(flat, CalibrationSelection()))
    with pytest.raises(UserError, match="at least two"):
        by_slices(flat, CalibrationSelection(count=1), None)
