"""Boxes that a reference tells, for models that need them: the same for every benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from medquant.imaging.boxes import boxes_from_labels
from medquant.imaging.terminology import plain_name
from medquant.models.base import Model
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.quantized_model import QuantizedModel
from medquant.segment import segment
from medquant.segmentation import Segmentation, Structure

PAIRED = "kidney"
"""The plain name of both kidneys as one structure; "left kidney" and "kidney tumor" are others."""
SMALLEST_PART = 0.05
"""Of a paired organ's voxels: the smallest pieces that have less together are of neither organ."""


def segment_each(
    model: Model | QuantizedModel,
    reference: Segmentation,
    structures: Sequence[Structure],
    progress: Progress,
    about: str = "",
) -> Iterator[tuple[Structure, Segmentation]]:
    """Each of `structures` by itself, from the boxes around it in the reference (`boxes_of`).

    So each mask is the model's own: prompted together, the later structure's would be laid over the earlier one's
    (`SamModelAdapter.segment`). MedSAM's protocol; image embeddings are kept from one structure to the next.
    """
    for number, structure in enumerate(structures):
        part = progress.span(number / len(structures), (number + 1) / len(structures))
        words = ", ".join(word for word in (about, structure.name) if word)
        prompt = boxes_of(reference, structure)
        yield structure, segment(model, reference.volume, prompt=prompt, **part.callbacks(words))


def boxes_of(reference: Segmentation, structure: Structure) -> BoxPrompt:
    """A tight box on each slice that shows the structure; where both kidneys are one, one for each.

    All of them have the structure's label. Raises `UserError` where the reference shows nothing of it.
    """
    mask = reference.mask(structure)
    parts = mask.astype(np.uint8)
    if plain_name(structure.name) == PAIRED and mask.any():
        parts = _sides(mask, reference.volume.spacing)
    numbers = [Structure(number, structure.name) for number in range(1, int(parts.max()) + 1)]
    boxes = boxes_from_labels(parts, reference.volume, numbers, per_slice=True).boxes
    return BoxPrompt(tuple(replace(box, label=structure.label) for box in boxes))


def _sides(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The two organs of a mask as labels 1 and 2, or the only one as 1; crumbs (`SMALLEST_PART`) have none.

    They are its two largest connected pieces, each with the others that lie nearer to it, centre to centre.
    """
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    smallest_first = np.argsort(sizes, kind="stable")
    together = sizes[smallest_first].cumsum()
    kept = 1 + smallest_first[together >= SMALLEST_PART * sizes.sum()][::-1]  # the largest first
    centres = np.array(ndimage.center_of_mass(mask, pieces, kept)) * spacing
    away = np.linalg.norm(centres[:, None] - centres[None, :2], axis=2)
    part_of = np.zeros(count + 1, dtype=np.uint8)
    part_of[kept] = 1 + away.argmin(axis=1)
    return part_of[pieces]
