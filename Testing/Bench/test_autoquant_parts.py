"""What checks a mixed model of `medquant bench autoquant` shares no voxel with what calibrates it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medquant.bench.autoquant import CALIBRATING, CHECKING, HALVES
from medquant.bench.organ_case import CROPS, cubes, every
from medquant.imaging.volume import Volume


@pytest.fixture
def volume() -> Volume:
    """Thirteen slices of noise."""
    array = np.random.default_rng(0).integers(0, 100, (13, 20, 24)).astype(np.int16)
    affine = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]])
    return Volume(array, affine, name="body", modality="CT")


def test_every_slice_is_in_one_half_and_lies_where_it_lay(volume: Volume) -> None:
    for half in HALVES:
        part = every(volume, half, len(HALVES))
        np.testing.assert_array_equal(part.array, volume.array[half :: len(HALVES)])
        for index in range(part.shape[0]):
            np.testing.assert_allclose(part.affine @ [3, 4, index, 1], volume.affine @ [3, 4, half + 2 * index, 1])
    assert sum(every(volume, half, len(HALVES)).shape[0] for half in HALVES) == volume.shape[0]


@pytest.mark.parametrize("checked", HALVES)
def test_what_checks_says_nothing_of_what_calibrates(volume: Volume, checked: int) -> None:
    array = volume.array.copy()
    array[checked :: len(HALVES)] += 7
    changed = Volume(array, volume.affine, name="other", modality="CT")
    for half in HALVES:
        same = _same(every(volume, half, len(HALVES)), every(changed, half, len(HALVES)))
        assert same == [half != checked] * len(CHECKING)
    assert set(CALIBRATING) <= set(CHECKING)
    assert not any(_same(volume, changed, CROPS)), "what the rows are calibrated on is all of the body"


def _same(volume: Volume, changed: Volume, crops: tuple = CHECKING) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(cubes(volume, crops), cubes(changed, crops), strict=True)]
