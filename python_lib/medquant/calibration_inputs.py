"""The inputs of a network that calibrate it, from whatever the caller gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import Progress


@dataclass(frozen=True, eq=False)
class PreparedInputs(Sequence[CalibrationBatch]):
    """Inputs that were cut from volumes, once for all that calibrates with them."""

    batches: list[CalibrationBatch]
    hashes: tuple[str, ...]
    """Of the volumes."""

    @classmethod
    def of(
        cls, model: Model, volumes: Sequence[Volume], selection: CalibrationSelection, tracker: Progress
    ) -> PreparedInputs:
        """Cut from volumes. Raises `UserError` where there is nothing to calibrate with."""
        return cls(*calibration_inputs(model, volumes, selection, tracker))

    def __getitem__(self, index: Any) -> Any:
        return self.batches[index]

    def __len__(self) -> int:
        return len(self.batches)


def calibration_inputs(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    selection: CalibrationSelection,
    tracker: Progress,
) -> tuple[list[CalibrationBatch], tuple[str, ...]]:
    """The inputs, and the hashes of the volumes that they were cut from (none where they were given as they are).

    Raises `UserError` where there is nothing to calibrate with.
    """
    if isinstance(calibration, Volume):
        calibration = [calibration]
    if not len(calibration):
        raise UserError("There is nothing to calibrate with. Give a volume, or choose more slices.")
    if isinstance(calibration, PreparedInputs):
        return list(calibration), calibration.hashes
    if isinstance(calibration[0], CalibrationBatch):
        return list(calibration), ()
    batches: list[CalibrationBatch] = []
    for volume in calibration:
        tracker.report(0.0, "Preparing the calibration inputs")
        batches.extend(model.calibration_batches(volume, selection, tracker.span(0.0, 0.05)))
    if not batches:
        raise UserError("No part of the volume can be used to calibrate. Choose other slices.")
    return batches, tuple(volume.content_hash() for volume in calibration)


def set_apart(
    batches: Sequence[CalibrationBatch], one_of: int
) -> tuple[list[CalibrationBatch], list[CalibrationBatch]]:
    """Two parts: the second has one of every `one_of` inputs, the second input first; the first has the others."""
    return [batch for number, batch in enumerate(batches) if number % one_of != 1], list(batches[1::one_of])
