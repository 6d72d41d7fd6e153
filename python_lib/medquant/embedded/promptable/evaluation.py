"""Dice of the embedded model on real scans that it never saw, beside what needs no network."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from medquant.errors import UserError
from medquant.evaluation.metrics import dice
from medquant.imaging.labels import read_labels
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.models.prompt_images import SlicePreprocessing, grey_window
from medquant.models.sam import SamModelAdapter
from medquant.prompts import Box, BoxPrompt

SMALLEST_MASK = 100  # pixels; a smaller section says more about its box than about the model

BRAIN_STRUCTURES = {
    "lateral ventricle": (4, 43),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "hippocampus": (17, 53),
    "cerebellar cortex": (8, 47),
    "brain stem": (16,),
}
"""FreeSurfer's label values; left and right are two masks."""


class DiceRow(TypedDict):
    """Mean Dice over the axial sections of one structure, each boxed by its reference mask."""

    scan: str
    structure: str
    masks: int
    dice: float
    dice_otsu: float
    dice_ellipse: float


def evaluate(
    weights_folder: Path,
    data_folder: Path,
    *,
    scans: Collection[str] | None = None,
    slices: int | None = None,
    preprocessing: SlicePreprocessing | None = None,
) -> list[DiceRow]:
    """Rows for every scan below `data_folder` that is there and has masks of enough pixels.

    `scans` chooses some by name, `slices` limits the sections per mask, `preprocessing` replaces the folder's own.
    Raises `UserError` where no scan is found.
    """
    model = SamModelAdapter.load(weights_folder, preprocessing=preprocessing)
    every = [
        _row(model, scan, volume, structure, masks, slices)
        for scan, volume, structures in _scans(Path(data_folder), scans)
        for structure, masks in structures.items()
    ]
    rows = [row for row in every if row["masks"]]
    if not rows:
        raise UserError(f"No scan to evaluate on was found in {data_folder}. Give the folder of the test scans.")
    return rows


Structures = dict[str, list[np.ndarray]]


def _scans(folder: Path, chosen: Collection[str] | None) -> Iterator[tuple[str, Volume, Structures]]:
    """Name, volume, and the masks (k, j, i) of each structure."""
    with_labels = (
        ("ct_abdomen_dicom", "series", "labels.nii.gz", {"liver": 5, "spleen": 1, "stomach": 6}),
        ("ct_spleen_5mm", "sub-spleen2_ct.nii.gz", "sub-spleen2_ct_seg-manual.nii.gz", {"spleen": 1}),
        ("mr_small", "brain1_image.nrrd", "brain1_label.nrrd", {"brain tumour": 1}),
        ("mr_small", "breast1_image.nrrd", "breast1_label.nrrd", {"breast tumour": 1}),
    )
    for name, image, labels, values in with_labels:
        if (folder / name / labels).exists() and (chosen is None or name in chosen):
            volume = read_volume(folder / name / image)
            reference = read_labels(folder / name / labels, volume).labels
            yield name, volume, {structure: [reference == value] for structure, value in values.items()}
    brain = folder / "mr_brain_t1" / "test_scan.npz"
    if brain.exists() and (chosen is None or brain.parent.name in chosen):
        with np.load(brain) as stored:  # axes: left-right, downwards, backwards
            grey, segmentation = (stored[key].transpose(1, 2, 0) for key in ("vol", "seg"))
        volume = Volume(grey.astype(np.float32), np.diag([1.0, 1.0, -1.0, 1.0]), name="T1", modality="MR")
        masks = {name: [segmentation == v for v in values] for name, values in BRAIN_STRUCTURES.items()}
        yield "mr_brain_t1", volume, masks


def _row(
    model: SamModelAdapter, scan: str, volume: Volume, structure: str, masks: list[np.ndarray], slices: int | None
) -> DiceRow:
    window = grey_window(volume, model.preprocessing)
    found = []
    for mask in masks:
        axis = volume.slice_axis
        sections = np.moveaxis(mask, axis, 0)
        chosen = np.flatnonzero(sections.sum((1, 2)) > SMALLEST_MASK)
        if slices is not None and chosen.size > slices:
            chosen = chosen[np.linspace(0, chosen.size - 1, slices).round().astype(int)]
        boxes = tuple(replace(_box(sections[k], axis, int(k)), name=structure) for k in chosen)
        if not boxes:
            continue
        predicted = np.moveaxis(model.segment(volume, BoxPrompt(boxes)).labels > 0, axis, 0)
        pictures = np.moveaxis(volume.array, axis, 0)
        for k in chosen:
            reference = sections[k]
            others = otsu_in_box(window.apply(pictures[k]), reference), ellipse_in_box(reference)
            found.append([dice(candidate, reference) for candidate in (predicted[k], *others)])
    mean = np.mean(found, axis=0) if found else np.zeros(3)
    return DiceRow(
        scan=scan,
        structure=structure,
        masks=len(found),
        dice=float(mean[0]),
        dice_otsu=float(mean[1]),
        dice_ellipse=float(mean[2]),
    )


def _box(section: np.ndarray, axis: int, index: int) -> Box:
    """The tight box of one section as a prompt of one slice."""
    rows, columns = _extent(section)
    lower, upper = [rows.start, columns.start], [rows.stop - 1, columns.stop - 1]
    lower.insert(axis, index)
    upper.insert(axis, index)
    plane = "axial"
    return Box(tuple(map(float, lower[::-1])), tuple(map(float, upper[::-1])), plane=plane)


def _extent(section: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(section.any(1)), np.flatnonzero(section.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def otsu_in_box(grey: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Otsu's threshold in the reference's box, the class that fills its middle, its largest component without holes."""
    box = _extent(reference)
    inside = grey[box]
    result = np.zeros(reference.shape, bool)
    if inside.min() == inside.max():
        result[box] = True
        return result
    bright = inside > threshold_otsu(inside)
    height, width = inside.shape
    middle = (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
    foreground = bright if bright[middle].mean() >= 0.5 else ~bright
    pieces, count = ndimage.label(foreground)
    if count > 1:
        foreground = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    result[box] = ndimage.binary_fill_holes(foreground)
    return result


def ellipse_in_box(reference: np.ndarray) -> np.ndarray:
    """The ellipse that touches the four sides of the reference's box."""
    box = _extent(reference)
    result = np.zeros(reference.shape, bool)
    height, width = result[box].shape
    row, column = np.ogrid[:height, :width]
    result[box] = ((row + 0.5) / height * 2 - 1) ** 2 + ((column + 0.5) / width * 2 - 1) ** 2 <= 1
    return result


def as_table(rows: list[DiceRow]) -> str:
    """The rows as a Markdown table, with the mean of the structures of each scan that has several."""
    lines = ["| scan | structure | masks | ellipse | Otsu | model |", "|---|---|---|---|---|---|"]
    for scan in dict.fromkeys(row["scan"] for row in rows):
        own = [row for row in rows if row["scan"] == scan]
        if len(own) > 1:
            mean = {key: float(np.mean([row[key] for row in own])) for key in ("dice", "dice_otsu", "dice_ellipse")}
            own.append(DiceRow(scan=scan, structure="mean", masks=sum(row["masks"] for row in own), **mean))
        for row in own:
            figures = " | ".join(f"{row[key]:.3f}" for key in ("dice_ellipse", "dice_otsu", "dice"))
            lines.append(f"| {scan} | {row['structure']} | {row['masks']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    print(as_table(evaluate(Path(sys.argv[1]), Path(sys.argv[2]))))
