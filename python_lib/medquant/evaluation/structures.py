"""Which structure of one segmentation is which of another, and where it lies."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    """The structure of the same name, case and punctuation aside; by label only where one side has no real name.

    "liver" is never compared with "spleen" because both are label 1. None where there is no counterpart.
    """
    for structure in segmentation.structures:
        if _key(structure.name) == _key(wanted.name):
            return structure
    for structure in segmentation.structures:
        if structure.label == wanted.label and (_is_nameless(structure) or _is_nameless(wanted)):
            return structure
    return None


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
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _is_nameless(structure: Structure) -> bool:
    return _NAMELESS.fullmatch(_key(structure.name)) is not None
