"""What rewrites that keep the function are worth on a real network, on a scan that did not calibrate.

Network and scans as in `medquant bench quality`; the rewrites are those of `medquant rewrites`.
"""

from __future__ import annotations

from pathlib import Path

from medquant.activation_settings import IntActivations
from medquant.bench.organ_case import OrganCase
from medquant.errors import UserError
from medquant.evaluation.rewrite_study import RewriteStudy, recipe_of_study, study_rewrites
from medquant.models.base import CalibrationBatch
from medquant.progress import CancelCheck, Progress, ProgressCallback


def run(
    *,
    data: Path,
    fold: int = 2,
    bits: int = 4,
    activations: int = 4,
    method: str = "rtn",
    layers: int = 3,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> RewriteStudy:
    """Of the network's own masks on the scan that tests; `activations` 0 leaves inputs in floating point.

    Raises `UserError` for what is missing in `data`, and for an unknown fold.
    """
    if fold not in (1, 2):
        raise UserError(f"Unknown fold {fold}. Choose 1 or 2.")
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Reading the scans")
    (case,) = OrganCase.all(Path(data), (fold,))
    rounded = IntActivations(bits=activations) if activations else None
    return study_rewrites(
        case.model,
        case.batches()[:1],  # the body as a whole
        recipe=recipe_of_study(bits, rounded, method),
        most=layers,
        measured_on=[CalibrationBatch((case.cube,))],
        **tracker.span(0.05, 1.0).callbacks(),
    )
