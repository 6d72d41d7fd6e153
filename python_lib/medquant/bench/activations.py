"""Kurtosis within channels and across them, and where the arithmetic goes, of the networks that are at hand.

MedQuanBench (Fig. 1b) finds a larger kurtosis within channels than across them in medical networks. The networks that
come along see a phantom, and the real scan where there is one; those with public weights see the real scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medquant.bench.organ_case import OrganModel
from medquant.demo import phantom_case
from medquant.evaluation.activations import ActivationStudy, study_activations
from medquant.imaging.reading import read_volume
from medquant.models.base import CalibrationSelection, Model
from medquant.models.registry import load_model
from medquant.progress import CancelCheck, Progress, ProgressCallback

EMBEDDED = ("embedded", "embedded-unetr", "embedded-nnunet")
FOLDS = (1, 2)


@dataclass(frozen=True)
class Row:
    """One network on one slice or patch; of the layers whose rows lie in the image and that have both kurtoses."""

    network: str
    scan: str
    layers: int
    within_above_across: float
    """Part of the layers whose median within channels is above that across them."""
    of_convolutions: float | None
    """The same of the convolutions among them; None where there is none."""
    of_linear: float | None
    """Of the linear layers."""
    means_above: float
    """The same by the means, which few channels or places can decide."""
    within: float
    """Median over the layers of the median over the channels."""
    across: float
    """Median over the layers of the median over the places."""
    gflops: dict[str, float] = field(default_factory=dict)
    """Of one pass by kind of operation."""


def run(
    *, data: Path | None = None, progress: ProgressCallback | None = None, cancelled: CancelCheck | None = None
) -> list[Row]:
    """A row for each network and scan; without the folder of real scans and weights the phantom alone.

    Raises `UserError` for what is missing in `data`.
    """
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Making the phantom")
    scans = {"phantom": phantom_case().volume}
    plan: list[tuple[str, str, Callable[[], Model]]] = [(name, "phantom", _embedded(name)) for name in EMBEDDED]
    if data is not None:
        scans["CT"] = read_volume(Path(data) / "ct_calibration_dicom" / "series")
        plan += [(name, "CT", _embedded(name)) for name in EMBEDDED]
        plan += [(f"allconvunet, fold {fold}", "CT", _organs(Path(data), fold)) for fold in FOLDS]
    rows = []
    for number, (network, scan, load) in enumerate(plan):
        part = tracker.span(number / len(plan), (number + 1) / len(plan))
        told = part.callbacks(f"{network}, {scan}")
        study = study_activations(load(), scans[scan], selection=CalibrationSelection(count=1), **told)
        rows.append(row_of(network, scan, study))
    tracker.report(1.0, "Looked at")
    return rows


def row_of(network: str, scan: str, study: ActivationStudy) -> Row:
    """What a study says of the paper's Figure 1."""
    layers = study.compared
    medians = np.array([(layer.quantiles_within[1], layer.quantiles_across[1]) for layer in layers])
    means = np.array([(layer.kurtosis_within, layer.kurtosis_across) for layer in layers])
    linear = np.array([layer.kind == "Linear" for layer in layers])
    above = medians[:, 0] > medians[:, 1]
    return Row(
        network=network,
        scan=scan,
        layers=len(medians),
        within_above_across=float(above.mean()),
        of_convolutions=None if linear.all() else float(above[~linear].mean()),
        of_linear=float(above[linear].mean()) if linear.any() else None,
        means_above=float((means[:, 0] > means[:, 1]).mean()),
        within=float(np.median(medians[:, 0])),
        across=float(np.median(medians[:, 1])),
        gflops={kind: count / 1e9 for kind, count in study.flops.items()},
    )


def _embedded(name: str) -> Callable[[], Model]:
    return lambda: load_model(name, device="cpu")


def _organs(data: Path, fold: int) -> Callable[[], Model]:
    return lambda: OrganModel.load(data / "weights" / "allconvunet" / f"allconvunet_tcia_fold{fold}.pth")
