"""What checks a mixed model of `medquant bench autoquant` shares no voxel with what calibrates or measures it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from medquant.bench.autoquant import CALIBRATING, CHECKING
from medquant.bench.organ_case import CROPS, cubes, within
from medquant.imaging.volume import Volume

SIDES = st.tuples(st.integers(0, 50), st.integers(8, 600)).map(lambda side: slice(side[0], sum(side)))


@given(st.tuples(SIDES, SIDES, SIDES))
def test_no_voxel_calibrates_and_checks(whole: tuple[slice, ...]) -> None:
    for one in CALIBRATING:
        for other in CHECKING:
            sides = list(zip(within(whole, one), within(whole, other), strict=True))
            assert any(a.stop <= b.start or b.stop <= a.start for a, b in sides)
            assert all(side.stop > side.start for pair in sides for side in pair)


def _changed_by(volume: Volume, changed: Volume, crops: tuple) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(cubes(volume, crops), cubes(changed, crops), strict=True)]


def test_what_checks_says_nothing_of_what_calibrates() -> None:
    generator = np.random.default_rng(0)
    array = generator.integers(0, 100, (12, 20, 24)).astype(np.int16)
    volume = Volume(array, np.diag([2.0, 2.0, 5.0, 1.0]), name="body", modality="CT")
    lower = array.copy()
    lower[:6] += 7  # with this matrix the first slices are those of the feet
    changed = Volume(lower, volume.affine, name="other", modality="CT")
    assert _changed_by(volume, changed, CALIBRATING) == [False] * len(CALIBRATING)
    assert _changed_by(volume, changed, CHECKING) == [True] * len(CHECKING)
    assert all(_changed_by(volume, changed, CROPS)), "what the rows are calibrated on is all of the body"
