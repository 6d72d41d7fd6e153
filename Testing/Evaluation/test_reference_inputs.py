"""A reference beside the inputs of a network: what a trained one finds there is what the reference has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medquant.errors import Notice, UserError
from medquant.evaluation.reference_inputs import _of_model, reference_inputs
from medquant.models.base import CalibrationSelection, Model
from medquant.models.registry import load_model
from medquant.segmentation import Segmentation, Structure
from medquant.sensitivity.change import Expected

Reference = Callable[..., Segmentation]


@pytest.mark.parametrize("turned", [False, True], ids=["straight", "turned"])
@pytest.mark.parametrize("name", ["embedded", "embedded-nnunet", "embedded-unetr"])
def test_a_trained_network_finds_what_the_reference_has(a_reference: Reference, name: str, turned: bool) -> None:
    model = load_model(name, device="cpu")
    batches, references = reference_inputs(model, a_reference(turned=turned), CalibrationSelection(count=2))
    assert len(batches) == len(references) == 2
    for batch, labels in zip(batches, references, strict=True):
        with torch.inference_mode():
            logits = model.forward_for_calibration(model.network, *batch.inputs)
        expected = Expected(logits, exclusive=model.exclusive(logits), reference=labels)
        change = expected.change(logits)
        assert change.dsc == 1 and change.dsc_vs_reference > 0.7
        moved = Expected(logits, exclusive=model.exclusive(logits), reference=labels.roll(labels.shape[-1] // 3, -1))
        assert moved.change(logits).dsc_vs_reference < 0.5


def test_a_reference_without_the_structures_is_refused(a_reference: Reference) -> None:
    reference = a_reference((8, 40, 40))
    bones = Segmentation(reference.labels, reference.volume, (Structure(200, "bone"),))
    for name in ("embedded", "embedded-nnunet"):
        with pytest.raises(UserError, match="none of the structures"):
            reference_inputs(load_model(name, device="cpu"), bones, CalibrationSelection(count=1))


def _with_structures(model: Model, *structures: Structure) -> Model:
    """The model as one that segments these."""
    model.structures = structures
    return model


def test_left_and_right_of_a_reference_are_both_of_what_a_model_has_as_one(a_reference: Reference) -> None:
    reference = a_reference((8, 40, 40))
    sides = [s.label for s in reference.structures if "kidney" in s.name]
    shown = np.isin(reference.labels, sides)
    assert len(sides) == 2 and shown.any()
    found = _of_model(_with_structures(load_model("embedded-nnunet", device="cpu"), Structure(7, "kidney")), reference)
    np.testing.assert_array_equal(found.labels == 7, shown)


def test_a_pair_that_a_reference_has_as_one_is_left_out_and_this_is_said(a_reference: Reference) -> None:
    reference = a_reference((8, 40, 40))
    sides = [s.label for s in reference.structures if "kidney" in s.name]
    joint = Segmentation(
        np.where(np.isin(reference.labels, sides), 99, reference.labels),
        reference.volume,
        (*(s for s in reference.structures if s.label not in sides), Structure(99, "kidneys")),
    )
    model = load_model("embedded-nnunet", device="cpu")
    pair = {s.label for s in model.structures if "kidney" in s.name}
    with pytest.warns(Notice, match=r"kidney.* as one.*left out"):
        found = _of_model(model, joint)
    assert len(pair) == 2 and not np.isin(found.labels, list(pair)).any() and found.labels.any()


def test_labels_on_a_finer_grid_count_where_the_logits_are() -> None:
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[..., :2, :] = 1.0
    fine = torch.zeros(1, 16, 16, dtype=torch.long)
    fine[:, :8] = 1
    assert Expected(logits, exclusive=False, reference=fine).change(logits).dsc_vs_reference == 1
    both = torch.cat([-logits, logits], 1)
    assert Expected(both, exclusive=True, reference=fine).change(both).dsc_vs_reference == 1
