"""What Tables 1 and 2 are measured on: scans with references, one scan to calibrate, boxes from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medquant.bench.reference_boxes import segment_each
from medquant.datasets import Case, open_dataset
from medquant.errors import UserError
from medquant.evaluation.metrics import agreement
from medquant.models.base import Model
from medquant.progress import Progress
from medquant.quantized_model import QuantizedModel
from medquant.segmentation import Segmentation, Structure

ORGANS = ("liver", "kidney", "spleen", "pancreas")
"""Those of AbdomenCT-1K; a structure counts whose name has one of these words."""
LABELS = {1: "spleen", 2: "right kidney", 3: "left kidney", 5: "liver", 7: "pancreas"}
AT_HAND = (
    ("ct_abdomen_dicom", "series", "labels.nii.gz", LABELS, "by a model"),
    ("ct_abdomen_3mm", "ct.nii.gz", "labels.nii.gz", LABELS, "by a model"),
    ("ct_spleen_5mm", "sub-spleen2_ct.nii.gz", "sub-spleen2_ct_seg-manual.nii.gz", {1: "spleen"}, "manual"),
)
"""Folder, scan, reference, names, and who made the reference."""
CALIBRATION_AT_HAND = ("ct_calibration_dicom", "series")


@dataclass(frozen=True)
class Material:
    """Cases that test, a scan that calibrates and is none of them, and what must be said of both."""

    title: str
    """For the head of every table."""
    cases: Sequence[Case]
    calibration_name: str
    calibration_path: Path


def at_hand(data: Path) -> Material:
    """The scans of the project's own test data. Raises `UserError` where there are none."""
    cases, told = [], []
    for folder, scan, labels, names, made in AT_HAND:
        if (data / folder / labels).exists():
            cases.append(Case(folder, data / folder / scan, names, labels=data / folder / labels))
            told.append(f"{folder} ({made})")
    calibration = data.joinpath(*CALIBRATION_AT_HAND)
    if not cases or not calibration.exists():
        raise UserError(f"The scans of the tables are not in {data}. Give the folder of the real scans with --data.")
    return Material(
        f"{len(cases)} scans at hand; reference of {', '.join(told)}", cases, CALIBRATION_AT_HAND[0], calibration
    )


def abdomenct_1k(folder: Path, count: int | None) -> Material:
    """AbdomenCT-1K, the paper's data set: the first case calibrates, the next `count` (None: all) test.

    Raises `UserError` where its layout is not found, where its masks are missing, or one case only has one.
    """
    first, *others = open_dataset("abdomenct-1k", folder).require_reference()[: None if count is None else count + 1]
    if not others:
        raise UserError(f"{folder} has one case with a mask only. One calibrates, and others are needed to test.")
    plural = "s" if len(others) > 1 else ""
    return Material(f"{len(others)} case{plural} of AbdomenCT-1K", others, first.name, first.image)


def scores(model: Model | QuantizedModel, case: Case, tracker: Progress) -> dict[str, tuple[float, float]]:
    """DSC and NSD (2 mm) of each organ of a case, in three dimensions; each slice boxed by the reference's section."""
    reference = case.reference()
    result = {}
    for structure, found in segment_each(model, reference, list(organs(reference)), tracker, case.name):
        one = agreement(found.labels > 0, reference.mask(structure), reference.volume.spacing)
        result[structure.name] = (one.dsc, one.nsd)
    return result


def organs(reference: Segmentation) -> Iterator[Structure]:
    """The structures that count, where the scan shows them."""
    for structure in reference.structures:
        if any(organ in structure.name.lower() for organ in ORGANS) and reference.mask(structure).any():
            yield structure
