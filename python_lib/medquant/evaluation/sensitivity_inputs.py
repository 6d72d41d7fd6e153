"""What a study of layers is calibrated with, and what it is measured on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from medquant.activation_settings import IntActivations
from medquant.calibration_inputs import calibration_inputs, set_apart
from medquant.errors import Notice
from medquant.evaluation.reference_inputs import reference_inputs
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import Progress
from medquant.recipe import Recipe
from medquant.segmentation import Segmentation
from medquant.sensitivity.trials import Rounding


@dataclass(frozen=True)
class SensitivityInputs:
    """Inputs as `medquant.sensitivity.layers.sensitivity` takes them."""

    calibrating: list[CalibrationBatch]
    measured_on: list[CalibrationBatch]
    references: list[torch.Tensor] | None
    """Labels of each that is measured on, where there is a reference."""
    apart: bool
    """Whether no input is both."""


def sensitivity_inputs(
    model: Model,
    scan: Volume,
    selection: CalibrationSelection,
    roundings: Sequence[Rounding],
    recipe: Recipe,
    *,
    reference: Segmentation | None = None,
    tracker: Progress | None = None,
) -> SensitivityInputs:
    """The chosen slices or patches of a scan; those that the `reference` shows structures on are measured, where there
    is one, and calibration does not see its labels.

    Where something is fitted to what calibrates (`is_fitted`), it is measured on another input: one more is cut. With a
    `Notice` it is measured on what it was fitted to, where the scan has no other. Raises `UserError` where nothing can
    be calibrated with, and where the reference shows nothing that the model knows.
    """
    tracker = tracker or Progress()
    fitted = is_fitted(recipe, roundings)
    chosen = replace(selection, count=selection.count + 1) if fitted else selection
    batches, _ = calibration_inputs(model, scan, chosen, tracker)
    if reference is not None:
        measured, labels = reference_inputs(model, reference, selection, tracker)
        calibrating = [one for one in batches if not any(_shows_the_same(one, other) for other in measured)]
        calibrating = calibrating[: selection.count] if fitted else batches
    elif fitted:
        labels = None
        calibrating, measured = set_apart(batches, len(batches)) if len(batches) > 1 else (batches, [])
        measured = [one for one in measured if not any(_shows_the_same(one, other) for other in calibrating)]
    else:
        return SensitivityInputs(batches, batches, None, False)
    apart = bool(calibrating and measured)
    if fitted and not apart:
        warnings.warn(
            "The scan has no other slice or patch: effects are measured on what the layers were fitted to, and look "
            "smaller than they are.",
            Notice,
            stacklevel=2,
        )
    return SensitivityInputs(calibrating or batches, measured or batches, labels, fitted and apart)


def is_fitted(recipe: Recipe, roundings: Sequence[Rounding]) -> bool:
    """Whether rounding learns from the inputs that calibrate: weights by a solver, or static ranges of inputs."""
    solved = recipe.method != "rtn" and any(one.weights is not None for one in roundings)
    static = (recipe.activations or IntActivations()).mode == "static"
    return solved or (static and any(one.activations is not None for one in roundings))


def _shows_the_same(one: CalibrationBatch, other: CalibrationBatch) -> bool:
    """Whether two inputs are the same picture, whatever boxes are drawn on it."""
    return torch.equal(one.inputs[0], other.inputs[0])
