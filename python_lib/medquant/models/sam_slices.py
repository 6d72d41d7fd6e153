"""From boxes in a scan to pictures for the image encoder, and from its embeddings to masks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from medquant.errors import UserError
from medquant.imaging.boxes import resolve_box
from medquant.imaging.volume import Volume
from medquant.models.prompt_images import (
    Box2D,
    SlicePreprocessing,
    averaged_masks,
    crop_for,
    input_boxes,
    masks_on_picture,
    tidied,
)
from medquant.models.slice_view import SliceView
from medquant.prompts import BoxPrompt

_BOXES_AT_ONCE = 16


@dataclass(frozen=True)
class PlacedBox:
    """A box on the volume's grid: its slices and its rectangle in each of them."""

    order: int
    label: int
    slices: range
    rectangle: Box2D


@dataclass(frozen=True, eq=False)
class Picture:
    """Grey levels (rows, columns), uint8, to be encoded; equal ones have the same `key`."""

    grey: np.ndarray
    key: str

    @classmethod
    def of(cls, grey: np.ndarray) -> Picture:
        """A picture with its key."""
        return cls(grey, hashlib.sha256(np.array(grey.shape).tobytes() + grey.tobytes()).hexdigest())


@dataclass(frozen=True, eq=False)
class Cut:
    """Boxes of one slice that share a picture: the slice itself, or the square around a small box."""

    boxes: tuple[PlacedBox, ...]
    where: Box2D
    """What the picture shows of the slice (x0, y0, x1, y1), both ends inclusive."""
    picture: Picture
    whole: Picture | None = None
    """The slice, where its logits are averaged with those of the square."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All that must be encoded."""
        return (self.picture,) if self.whole is None else (self.picture, self.whole)


Decode = Callable[[Picture, torch.Tensor], torch.Tensor]
"""A picture's embedding and boxes on the network's input (1, n, 4) -> logits (n, h, w)."""


def slices_with_boxes(volume: Volume, prompt: BoxPrompt) -> list[tuple[tuple[SliceView, int], list[PlacedBox]]]:
    """Every (view, slice) that a box crosses, with its boxes in the prompt's order."""
    work: dict[tuple[SliceView, int], list[PlacedBox]] = defaultdict(list)
    for order, box in enumerate(prompt.boxes, start=1):
        if not 0 < box.label < 65536:
            raise UserError(f"The box {box.name} has the label {box.label}. Labels run from 1 to 65535.")
        lower, upper, axis = resolve_box(box, volume)
        view = SliceView.of(volume, axis)
        slices = range(int(lower[2 - axis]), int(upper[2 - axis]) + 1)
        placed = PlacedBox(order, box.label, slices, view.box(lower, upper, volume.shape))
        for index in slices:
            work[view, index].append(placed)
    return sorted(work.items(), key=lambda item: (item[0][0].axis, item[0][1]))


def cuts_of(grey: np.ndarray, boxes: list[PlacedBox], settings: SlicePreprocessing) -> list[Cut]:
    """The boxes of a slice, those that share a picture together."""
    by_crop: dict[Box2D | None, list[PlacedBox]] = defaultdict(list)
    for box in boxes:
        by_crop[crop_for(box.rectangle, grey.shape, settings)].append(box)
    average = settings.zoom_average and any(crop is not None for crop in by_crop)
    whole = Picture.of(grey) if average or None in by_crop else None
    cuts = []
    for crop, members in by_crop.items():
        if crop is None:
            cuts.append(Cut(tuple(members), (0, 0, grey.shape[1] - 1, grey.shape[0] - 1), whole))
        else:
            x0, y0, x1, y1 = crop
            part = Picture.of(np.ascontiguousarray(grey[y0 : y1 + 1, x0 : x1 + 1]))
            cuts.append(Cut(tuple(members), crop, part, whole if average else None))
    return cuts


def masks_of(
    cut: Cut, shape: tuple[int, int], settings: SlicePreprocessing, decode: Decode
) -> Iterator[tuple[PlacedBox, np.ndarray]]:
    """Each box with its mask (rows, columns) on the slice of `shape`. Boxes of one picture share the decoder."""
    x0, y0, x1, y1 = cut.where
    near = cut.picture
    for start in range(0, len(cut.boxes), _BOXES_AT_ONCE):
        some = cut.boxes[start : start + _BOXES_AT_ONCE]
        local = [tuple(np.subtract(box.rectangle, (x0, y0, x0, y0)).tolist()) for box in some]
        logits = decode(near, input_boxes(local, near.grey.shape, settings))
        if cut.whole is not None:
            far = decode(cut.whole, input_boxes([box.rectangle for box in some], shape, settings))
            masks = averaged_masks(logits, far, shape, cut.where)
        else:
            masks = masks_on_picture(logits, near.grey.shape, settings)
        for box, rectangle, mask in zip(some, local, masks, strict=True):
            everywhere = np.zeros(shape, dtype=bool)
            everywhere[y0 : y1 + 1, x0 : x1 + 1] = tidied(mask, rectangle, settings)
            yield box, everywhere
