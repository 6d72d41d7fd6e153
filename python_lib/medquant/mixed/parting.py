"""Which part of a scan calibrates a model and which part checks it: no voxel does both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medquant.errors import UserError
from medquant.imaging.boxes import plane_of, resolve_box, slice_axis_of
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.body import allowed_range, body_mask, choose_slices, evenly
from medquant.models.sam_calibration import plausible_boxes
from medquant.prompts import Box, BoxPrompt

HELD_OUT = 3
"""One of so many inputs checks and does not calibrate."""
LEAST_SLICES = 3
"""Axial slices of a part that a model segments without boxes, at least."""


@dataclass(frozen=True, eq=False)
class Parting:
    """One scan in two parts."""

    calibrating: Volume
    """What is left of the scan; its slices keep their order but not always their distance."""
    selection: CalibrationSelection
    """What of it calibrates."""
    checking: Volume
    """The part, or for models that take boxes the scan, of which `prompt` means the held-out slices alone."""
    prompt: BoxPrompt | None
    slices: int
    """That check."""


def by_slices(volume: Volume, selection: CalibrationSelection, prompt: BoxPrompt | None) -> Parting:
    """For models that take boxes: whole slices are held out, one for every three that are chosen.

    With a `prompt` they are slices that its boxes cross, evenly, and at least one of each structure; without one they
    are chosen as calibrating ones are, and the boxes are drawn at random. Raises `UserError` where nothing is left.
    """
    count = held_out_of(selection.count)
    prompt = prompt or _drawn_at_random(volume, replace(selection, count=count))
    flat = _on_slices(prompt, volume, count)
    held = {(slice_axis_of(volume, box.plane), int(box.lower[2 - slice_axis_of(volume, box.plane)])) for box in flat}
    keep = _chosen_range(volume, selection)
    for axis, index in held:
        keep[axis][index] = False
    if not all(axis.any() for axis in keep):
        raise _too_small(volume)
    rest = replace(volume, array=volume.array[np.ix_(*keep)])
    where = "even" if selection.where == "range" else selection.where
    return Parting(rest, _fewer(selection, where), volume, BoxPrompt(tuple(flat)), len(held))


def by_slabs(volume: Volume, selection: CalibrationSelection) -> Iterator[Parting]:
    """For models that find the structures by themselves: a third of the scan is held out, at its one or other end along
    the patient's head-feet line. Raises `UserError` where that is too little."""
    keep = [np.flatnonzero(axis) for axis in _chosen_range(volume, selection)]
    axis, slices = volume.slice_axis, len(keep[volume.slice_axis])
    third = slices // HELD_OUT
    if third < LEAST_SLICES:
        raise _too_small(volume)
    where = "body" if selection.where == "range" else selection.where
    for cut, last in ((slices - third, True), (third, False)):
        parts = [[*keep[:axis], some, *keep[axis + 1 :]] for some in (keep[axis][:cut], keep[axis][cut:])]
        calibrating, checking = (_block(volume, part) for part in (parts if last else parts[::-1]))
        yield Parting(calibrating, _fewer(selection, where), checking, None, third)


def held_out_of(count: int) -> int:
    """How many of so many inputs check. Raises `UserError` for fewer than two."""
    if count < 2:
        raise UserError("One input cannot calibrate and check. Choose at least two slices or patches.")
    return len(range(1, count, HELD_OUT))


def _fewer(selection: CalibrationSelection, where: str) -> CalibrationSelection:
    """The inputs that are left to calibrate, of a scan that holds nothing but the chosen range."""
    return replace(selection, count=selection.count - held_out_of(selection.count), where=where, first=None, last=None)


def _chosen_range(volume: Volume, selection: CalibrationSelection) -> list[np.ndarray]:
    """Bool along k, j and i: what of the scan may calibrate."""
    keep = [np.ones(size, dtype=bool) for size in volume.shape]
    axis = slice_axis_of(volume)
    first, last = allowed_range(selection, volume.shape[axis])
    keep[axis][:first], keep[axis][last + 1 :] = False, False
    return keep


def _block(volume: Volume, indices: list[np.ndarray]) -> Volume:
    """A box of the scan, of neighbouring voxels, where it lies."""
    where = tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in indices)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [axis.start for axis in reversed(where)]
    return replace(volume, array=volume.array[where], affine=affine)


def _too_small(volume: Volume) -> UserError:
    return UserError(
        f"The scan {volume.name} is too small to hold anything out: what calibrates a model cannot check it. "
        "Take a scan of more slices, or quantize with the same bits everywhere."
    )


def _on_slices(prompt: BoxPrompt, volume: Volume, count: int) -> list[Box]:
    """The prompt's boxes on so many of the slices that they cross, and on one of each structure at least."""
    placed = [resolve_box(box, volume) for box in prompt.boxes]
    crossed = sorted({(axis, index) for *ends, axis in placed for index in _through(*ends, axis)})
    chosen = {crossed[number] for number in evenly(np.arange(len(crossed)), count)}
    for label in dict.fromkeys(box.label for box in prompt.boxes):
        of_label = [ends for box, ends in zip(prompt.boxes, placed, strict=True) if box.label == label]
        shown = sorted((axis, index) for *ends, axis in of_label for index in _through(*ends, axis))
        if not chosen & set(shown):
            chosen.add(shown[len(shown) // 2])
    return [
        _flat(box, lower, upper, axis, index, volume)
        for box, (lower, upper, axis) in zip(prompt.boxes, placed, strict=True)
        for index in _through(lower, upper, axis)
        if (axis, index) in chosen
    ]


def _through(lower: tuple[int, ...], upper: tuple[int, ...], axis: int) -> range:
    return range(lower[2 - axis], upper[2 - axis] + 1)


def _flat(box: Box, lower: tuple[int, ...], upper: tuple[int, ...], axis: int, index: int, volume: Volume) -> Box:
    """A box on one slice."""
    ends = [tuple(index if place == 2 - axis else at for place, at in enumerate(end)) for end in (lower, upper)]
    return replace(box, lower=ends[0], upper=ends[1], space="ijk", plane=plane_of(volume, axis))


def _drawn_at_random(volume: Volume, selection: CalibrationSelection) -> BoxPrompt:
    """Boxes within the body, each a structure of its own, of the sizes that organs have."""
    axis, body = slice_axis_of(volume), body_mask(volume)
    generator = np.random.default_rng(selection.seed)
    boxes: list[Box] = []
    for index in choose_slices(volume, axis, selection, body):
        for x0, y0, x1, y1 in plausible_boxes(body.take(index, axis), generator):
            ends = [[y0, x0], [y1, x1]]  # along the two other axes of the array
            for end in ends:
                end.insert(axis, index)
            lower, upper = (tuple(reversed(end)) for end in ends)
            label, plane = len(boxes) + 1, plane_of(volume, axis)
            boxes.append(Box(lower, upper, label=label, name=f"random box {label}", plane=plane))
    return BoxPrompt(tuple(boxes))
