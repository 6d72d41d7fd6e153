"""Inputs of a network with the labels that a reference has there, so that its masks can be held against it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch

from medquant.errors import Notice, UserError
from medquant.evaluation.structures import joint_mask, matches
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import Progress
from medquant.segmentation import Segmentation


def reference_inputs(
    model: Model, reference: Segmentation, selection: CalibrationSelection, progress: Progress | None = None
) -> tuple[list[CalibrationBatch], list[torch.Tensor]]:
    """Slices or patches of the reference's own scan, and of each the labels as `sensitivity` takes them.

    Structures are those of the model by name, where it has names of its own. Raises `UserError` where the reference
    shows none of them, and for a model whose inputs have no place in a scan.
    """
    pairs = list(model.labelled_batches(_of_model(model, reference), selection, progress))
    return [batch for batch, _ in pairs], [labels for _, labels in pairs]


def _of_model(model: Model, reference: Segmentation) -> Segmentation:
    """The reference with the model's label numbers; as it is for a model that is told by boxes what to segment.

    Where the model has left and right as one, both count. Where the reference has, neither can be told from the other:
    these structures are left out, with a `Notice`.
    """
    labels, structures = reference.labels, reference.structures
    if not model.takes_boxes and model.structures:
        labels, structures = np.zeros(labels.shape, np.uint16), model.structures
        for match in matches(replace(reference, structures=tuple(model.structures)), reference):
            if len(match.found) == 1:
                labels[joint_mask(reference, match.reference)] = match.found[0].label
            elif joint_mask(reference, match.reference).any():
                warnings.warn(
                    f"The reference has {match.name} as one, {model.name} has left and right. It was left out of what "
                    "is held against the reference.",
                    Notice,
                    stacklevel=2,
                )
    if not np.isin(labels, [structure.label for structure in structures]).any():
        raise UserError(
            f"The reference shows none of the structures of {model.name}. Give one that does, or leave it out."
        )
    return replace(reference, labels=labels, structures=tuple(structures))
