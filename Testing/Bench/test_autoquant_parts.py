"""What checks a mixed model of `medquant bench autoquant` shares no voxel with what calibrates it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medquant.bench.autoquant import CALIBRATED_ON, CALIBRATING, CHECKED_ON, CHECKING, MEASURING
from medquant.bench.organ_case import CROPS, SIDE, OrganCase, OrganModel, every
from medquant.imaging.volume import Volume


@pytest.fixture
def case() -> OrganCase:
    """Thirteen slices of noise to calibrate on; the network is none."""
    array = np.random.default_rng(0).integers(0, 100, (13, 20, 24)).astype(np.int16)
    affine = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]])
    nothing = torch.zeros(0)
    network = OrganModel(torch.nn.Identity(), name="none", spec={}, weights_hash="")
    return OrganCase(network, Volume(array, affine, name="body", modality="CT"), nothing, nothing, nothing, ())


def test_every_slice_is_in_one_half_and_lies_where_it_lay(case: OrganCase) -> None:
    volume = case.calibration
    for half in (CALIBRATED_ON, CHECKED_ON):
        part = every(volume, half, 2)
        np.testing.assert_array_equal(part.array, volume.array[half::2])
        for index in range(part.shape[0]):
            np.testing.assert_allclose(part.affine @ [3, 4, index, 1], volume.affine @ [3, 4, half + 2 * index, 1])
    assert {CALIBRATED_ON, CHECKED_ON} == {0, 1}


def test_what_checks_says_nothing_of_what_calibrates(case: OrganCase) -> None:
    array = case.calibration.array.copy()
    array[CHECKED_ON::2] += 7
    changed = replace(case, calibration=replace(case.calibration, array=array))
    of_halves = {
        "calibrates": {"crops": CALIBRATING, "first": CALIBRATED_ON, "step": 2},
        "checks": {"crops": CHECKING, "first": CHECKED_ON, "step": 2, "mirrored": True},
        "measures": {"crops": MEASURING, "first": CHECKED_ON, "step": 2, "mirrored": True},
        "rows": {"crops": CROPS},
    }
    same = {name: _same(case, changed, **part) for name, part in of_halves.items()}
    assert all(same["calibrates"]) and not any(same["checks"]) and not any(same["measures"])
    assert not any(same["rows"]), "what the rows are calibrated on is all of the body"
    assert set(MEASURING) <= set(CHECKING)


def test_the_mirror_has_left_for_right(case: OrganCase) -> None:
    array = case.calibration.array.copy()
    array[..., :12] = 500  # the patient's left: the affine's first axis grows to the right
    one_sided = replace(case, calibration=replace(case.calibration, array=array))
    (seen,), (mirrored,) = (
        [batch.inputs[0] for batch in one_sided.batches(CROPS[:1], mirrored=flag)] for flag in (False, True)
    )
    bright = [[float(half.mean()) > 300 for half in cube[0, 0].split(SIDE // 2)] for cube in (seen, mirrored)]
    assert bright[0] == bright[1][::-1] and sum(bright[0]) == 1


def _same(case: OrganCase, changed: OrganCase, **part: object) -> list[bool]:
    pairs = zip(case.batches(**part), changed.batches(**part), strict=True)
    return [torch.equal(one.inputs[0], other.inputs[0]) for one, other in pairs]
