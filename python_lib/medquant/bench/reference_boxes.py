"""Boxes that a reference tells, for models that need them: the same for every benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from medquant.imaging.boxes import boxes_from_labels
from medquant.models.base import Model
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.quantized_model import QuantizedModel
from medquant.segment import segment
from medquant.segmentation import Segmentation, Structure

PAIRED = "kidney"
SMALLEST_PART = 0.05
"""Of a paired organ's voxels: a smaller piece is no organ of its own."""


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
