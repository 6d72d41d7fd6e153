"""What layers are fitted to is not what their effects are measured on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from medquant.activation_settings import IntActivations
from medquant.errors import Notice
from medquant.evaluation.sensitivity_inputs import is_fitted, sensitivity_inputs
from medquant.models.base import CalibrationSelection, Model
from medquant.models.registry import load_model
from medquant.recipe import Recipe
from medquant.segmentation import Segmentation
from medquant.sensitivity.trials import Rounding

Reference = Callable[..., Segmentation]

RTN, SOLVED = Recipe(method="rtn"), Recipe(method="comq")
WEIGHTS, INPUTS = [Rounding(4)], [Rounding(4), Rounding(None, 4)]
DYNAMIC = replace(RTN, activations=IntActivations(mode="dynamic"))
ONE = CalibrationSelection(count=1)


@pytest.fixture(scope="module", params=["embedded", "embedded-nnunet"])
def model(request: pytest.FixtureRequest) -> Model:
    """One that sees slices, and one that sees patches."""
    return load_model(request.param, device="cpu")


@pytest.mark.parametrize(
    ("recipe", "roundings", "fitted"),
    [
        (RTN, WEIGHTS, False),
        (RTN, INPUTS, True),
        (DYNAMIC, INPUTS, False),
        (SOLVED, WEIGHTS, True),
        (replace(DYNAMIC, method="comq"), [Rounding(None, 4)], False),
    ],
    ids=["nearest", "static inputs", "dynamic inputs", "solver", "solver without weights"],
)
def test_one_more_input_is_cut_where_something_is_fitted(recipe, roundings, fitted) -> None:
    assert is_fitted(recipe, roundings) is fitted


def test_a_solver_is_measured_on_another_input(model: Model, a_reference: Reference) -> None:
    scan = a_reference().volume
    plain = sensitivity_inputs(model, scan, ONE, WEIGHTS, RTN)
    assert plain.measured_on is plain.calibrating and len(plain.calibrating) == 1 and not plain.apart
    for count in (1, 2):
        found = sensitivity_inputs(model, scan, replace(ONE, count=count), WEIGHTS, SOLVED)
        assert (len(found.calibrating), len(found.measured_on), found.references) == (count, 1, None)
        assert found.apart
        for one in found.calibrating:
            assert not torch.equal(one.inputs[0], found.measured_on[0].inputs[0])


def test_what_a_reference_measures_does_not_calibrate(model: Model, a_reference: Reference) -> None:
    reference = a_reference()
    plain = sensitivity_inputs(model, reference.volume, ONE, WEIGHTS, RTN, reference=reference)
    found = sensitivity_inputs(model, reference.volume, ONE, WEIGHTS, SOLVED, reference=reference)
    for one in (plain, found):
        assert len(one.calibrating) == len(one.measured_on) == len(one.references) == 1
    assert torch.equal(plain.measured_on[0].inputs[0], found.measured_on[0].inputs[0])
    assert found.apart and not torch.equal(found.calibrating[0].inputs[0], found.measured_on[0].inputs[0])


def test_a_scan_of_one_slice_says_so(a_reference: Reference) -> None:
    model, scan = load_model("embedded", device="cpu"), a_reference().volume
    thin = replace(scan, array=scan.array[20:21])
    with pytest.warns(Notice, match="no other slice"):
        found = sensitivity_inputs(model, thin, ONE, WEIGHTS, SOLVED)
    assert found.measured_on == found.calibrating and not found.apart
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert len(sensitivity_inputs(model, thin, ONE, WEIGHTS, RTN).calibrating) == 1
