"""Boxes that a reference tells, for models that need them: the same for every benchmark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from medquant.imaging.boxes import boxes_from_labels
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure

PAIRED = "kidney"
SMALLEST_PART = 0.05
"""Of a paired organ's voxels: a smaller piece is no organ of its own."""


def boxes_of(reference: Segmentation, structure: Structure) -> BoxPrompt:
    """A tight box on each slice that shows the structure; where both kidneys are one structure, one for each.

    All of them have the structure's label. Raises `UserError` where the reference shows nothing of it.
    """
    mask = reference.mask(structure)
    parts = mask.astype(np.uint8)
    if PAIRED in structure.name.lower():
        parts = _largest_parts(mask)
    numbers = [Structure(number, structure.name) for number in range(1, int(parts.max()) + 1)]
    boxes = boxes_from_labels(parts, reference.volume, numbers, per_slice=True).boxes
    return BoxPrompt(tuple(replace(box, label=structure.label) for box in boxes))


def _largest_parts(mask: np.ndarray) -> np.ndarray:
    """The one or two largest connected pieces of a mask as labels 1 and 2; crumbs are nobody's."""
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    kept = [piece for piece in np.argsort(-sizes)[:2] if sizes[piece] >= SMALLEST_PART * sizes.sum()]
    parts = np.zeros(mask.shape, dtype=np.uint8)
    for number, piece in enumerate(kept, start=1):
        parts[pieces == piece + 1] = number
    return parts
