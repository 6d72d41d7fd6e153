"""Which structure of one segmentation is which of another, and where it lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medquant.imaging.terminology import SIDES, plain_name, without_side
from medquant.segmentation import Segmentation, Structure

# Names that say nothing about anatomy: "3", "label 3", "Segment_3", "structure".
_NAMELESS = re.compile(r"(label|segment|structure|class)?\s*\d*")


def common_structures(segmentations: Sequence[Segmentation]) -> tuple[Structure, ...]:
    """Every structure that one of the segmentations declares, by name, those of the first one first."""
    found: dict[str, Structure] = {}
    for segmentation in segmentations:
        for structure in segmentation.structures:
            found.setdefault(_key(structure.name), structure)
    return tuple(found.values())


def find_structure(wanted: Structure, segmentation: Segmentation) -> Structure | None:
    """The structure of the same name in any usual spelling; by label only where one side has no real name.

    "liver" is never compared with "spleen" because both are label 1. None where there is no counterpart.
    """
    for structure in segmentation.structures:
        if _key(structure.name) == _key(wanted.name):
            return structure
    for structure in segmentation.structures:
        if structure.label == wanted.label and (_is_nameless(structure) or _is_nameless(wanted)):
            return structure
    return None


@dataclass(frozen=True)
class Match:
    """A structure, or a pair that one of two segmentations has as one, in both of them."""

    name: str
    found: tuple[Structure, ...]
    reference: tuple[Structure, ...]
    """Empty: the reference has no such structure."""


def matches(found: Segmentation, reference: Segmentation) -> list[Match]:
    """Every structure of `found` with its counterpart; left and right as one where the other has them so."""
    result: dict[str, Match] = {}
    for structure in found.structures:
        name = structure.name
        ours, theirs = (structure,), (find_structure(structure, reference),)
        if theirs[0] is None:
            organ = without_side(_key(name))
            whole = find_structure(Structure(structure.label, organ), reference)
            if organ != _key(name) and whole is not None and (both := _sides(organ, found)):
                name, ours, theirs = whole.name, both, (whole,)
            else:
                theirs = _sides(_key(name), reference)
        result.setdefault(name, Match(name, ours, theirs))
    return list(result.values())


def joint_mask(segmentation: Segmentation, structures: Sequence[Structure]) -> np.ndarray:
    """Where any of the structures is: bool (k, j, i)."""
    return np.isin(segmentation.labels, [structure.label for structure in structures])


def _sides(organ: str, segmentation: Segmentation) -> tuple[Structure, ...]:
    """The left and the right one; empty where one of them is not declared."""
    by_name = {_key(structure.name): structure for structure in segmentation.structures}
    sides = [by_name.get(f"{side} {organ}") for side in SIDES]
    return tuple(sides) if all(sides) else ()


def matched_by_number(segmentations: Sequence[Segmentation], reference: Segmentation) -> dict[str, int]:
    """Structures that have a name and are taken for a label of `reference` without one, with that label."""
    found = {}
    for structure in common_structures(segmentations):
        match = find_structure(structure, reference)
        if match is not None and _is_nameless(match) and not _is_nameless(structure):
            found[structure.name] = match.label
    return found


def joint_box(boxes: Sequence[tuple[slice, ...] | None], shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """The box around several boxes, grown by one voxel where the array has room; None where all are None.

    The rim keeps a mask inside one slice from looking like a mask of a single-slice scan.
    """
    present = [box for box in boxes if box is not None]
    if not present:
        return None
    return tuple(
        slice(max(min(box[axis].start for box in present) - 1, 0), min(max(box[axis].stop for box in present) + 1, n))
        for axis, n in enumerate(shape)
    )


def _key(name: str) -> str:
    return plain_name(name)


def _is_nameless(structure: Structure) -> bool:
    return _NAMELESS.fullmatch(_key(structure.name)) is not None
