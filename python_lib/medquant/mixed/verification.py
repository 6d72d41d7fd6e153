"""Candidates are checked by segmenting a part of the scan that did not calibrate them, as users segment it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.mixed.parting import Parting, by_slabs, by_slices
from medquant.models.base import CalibrationSelection, Model
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.quantized_model import QuantizedModel
from medquant.segment import segment
from medquant.segmentation import Segmentation


@dataclass(frozen=True)
class Kept:
    """What of the FP32 masks a model keeps where it was checked."""

    dsc: float
    """Mean Dice of the masks against FP32's, over the structures that either has."""
    volume_change: float
    """The largest relative change of a structure's volume, of those that FP32 sees."""
    worst_dsc: float
    worst: str = ""
    """The structure with that Dice."""
    structures: tuple[StructureKept, ...] = ()


@dataclass(frozen=True)
class StructureKept:
    """One structure, all that was checked of it together."""

    name: str
    dsc: float
    volume_ml: float
    volume_ml_fp32: float


@dataclass(frozen=True)
class Checked:
    """How a model was checked, and what one segmentation of the held-out part takes."""

    slices: int
    boxes: str
    """ "given", "random", or empty for models that take none."""
    seconds_fp32: float
    seconds: float
    computed_by: str
    """The model; FP32 by the same runtime."""
    simulated: bool
    """Whether the model's numbers were computed in floating point."""

    def describe(self) -> str:
        """ "3 held-out slices, boxes drawn at random"."""
        told = f"{self.slices} held-out slice" + ("s" if self.slices > 1 else "")
        return told + {"given": " with the boxes given", "random": ", boxes drawn at random", "": ""}[self.boxes]


class Verification:
    """Scans in two parts, and the FP32 masks of those that check."""

    def __init__(
        self,
        model: Model,
        volumes: Sequence[Volume],
        selection: CalibrationSelection,
        prompt: BoxPrompt | None = None,
        tracker: Progress | None = None,
    ) -> None:
        """Raises `UserError` for scans that are too small, boxes that do not fit, and where FP32 finds nothing."""
        if prompt is not None:
            if len(volumes) > 1:
                raise UserError("Boxes belong to one scan, and there are several. Give one scan, or no boxes.")
            model.require_prompt(prompt, volumes[0])
        self._tracker = tracker or Progress()
        self._boxes = "" if not model.takes_boxes else "random" if prompt is None else "given"
        self._fp32 = model.with_network(model.network)  # whatever runtime it has: candidates are run by PyTorch
        found = [self._parted(volume, selection, prompt) for volume in volumes]
        self._partings = [parting for parting, _ in found]
        self._expected = [masks for _, masks in found]

    @property
    def calibrating(self) -> list[tuple[Volume, CalibrationSelection]]:
        """What of each scan is left to calibrate."""
        return [(parting.calibrating, parting.selection) for parting in self._partings]

    def __call__(self, quantized: QuantizedModel) -> Kept:
        """What the model keeps of the masks; of several scans the worst of each structure counts."""
        found = [self._masks(quantized, parting) for parting in self._partings]
        return kept(found, self._expected)

    def checked(self, quantized: QuantizedModel) -> Checked:
        """One more segmentation by each of the two models, so that none of them is the first of its kind."""
        seconds = {}
        for model in (self._fp32, quantized):
            runs = [self._masks(model, parting) for parting in self._partings]
            seconds[model is quantized] = sum(run.seconds for run in runs)
        count = sum(parting.slices for parting in self._partings)
        ran = runs[0].execution
        return Checked(count, self._boxes, seconds[False], seconds[True], ran.describe(), bool(ran.simulated))

    def _parted(
        self, volume: Volume, selection: CalibrationSelection, prompt: BoxPrompt | None
    ) -> tuple[Parting, Segmentation]:
        """The scan's parts, and the FP32 masks of the one that checks; a part without any cannot check."""
        by_boxes = self._fp32.takes_boxes
        for parting in [by_slices(volume, selection, prompt)] if by_boxes else by_slabs(volume, selection):
            if (masks := self._masks(self._fp32, parting)).labels.any():
                return parting, masks
        where = "in these boxes" if prompt else f"in the parts of {volume.name} that could check"
        raise UserError(f"{self._fp32.name} finds nothing {where}. Take {'others' if prompt else 'another scan'}.")

    def _masks(self, model: Model | QuantizedModel, parting: Parting) -> Segmentation:
        getattr(model, "model", model).forget()  # else what was seen before would take no time
        return segment(model, parting.checking, prompt=parting.prompt, cancelled=self._tracker.cancelled)


def kept(found: Sequence[Segmentation], expected: Sequence[Segmentation]) -> Kept:
    """Of masks on the same scans, those of FP32 second. A structure of several scans counts once for each."""
    told: list[StructureKept] = []
    for ours, theirs in zip(found, expected, strict=True):
        most = 1 + max(int(ours.labels.max()), int(theirs.labels.max()))
        labels = [one.labels.ravel() for one in (ours, theirs)]
        both = np.bincount(labels[0][labels[0] == labels[1]], minlength=most)
        after, before = (np.bincount(one, minlength=most) for one in labels)
        names = {structure.label: structure.name for structure in (*ours.structures, *theirs.structures)}
        for label in range(1, most):
            if total := int(after[label] + before[label]):
                dsc, ml = 2 * int(both[label]) / total, ours.volume.voxel_volume_ml
                volumes = float(after[label]) * ml, float(before[label]) * ml
                told.append(StructureKept(names.get(label, str(label)), dsc, *volumes))
    if not told:
        return Kept(1.0, 0.0, 1.0)
    worst = min(told, key=lambda one: one.dsc)
    seen = [abs(one.volume_ml / one.volume_ml_fp32 - 1) for one in told if one.volume_ml_fp32]
    mean = sum(one.dsc for one in told) / len(told)
    return Kept(mean, max(seen, default=0.0), worst.dsc, worst.name, tuple(told))
