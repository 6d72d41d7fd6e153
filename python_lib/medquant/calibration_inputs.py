"""The inputs of a network that calibrate it, from whatever the caller gave."""

from __future__ import annotations

from collections.abc import Sequence

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.progress import Progress


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
    if isinstance(calibration[0], CalibrationBatch):
        return list(calibration), ()
    batches: list[CalibrationBatch] = []
    for volume in calibration:
        tracker.report(0.0, "Preparing the calibration inputs")
        batches.extend(model.calibration_batches(volume, selection, tracker.span(0.0, 0.05)))
    if not batches:
        raise UserError("No part of the volume can be used to calibrate. Choose other slices.")
    return batches, tuple(volume.content_hash() for volume in calibration)
