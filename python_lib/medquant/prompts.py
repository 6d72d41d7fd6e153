"""Box prompts: what a person draws around a structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Plane = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box around one structure.

    In `space="ijk"` the corners are voxel indices (i, j, k), both inclusive, so that equal ones are one voxel; in
    `space="world"` they are two opposite corners in LPS millimetres (x, y, z), and the box means every voxel of its
    bounding index box. `plane` says which slices a two-dimensional model walks through; None: the plane of the
    volume's thickest spacing or, where spacing is even, axial.
    """

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    space: Literal["ijk", "world"] = "ijk"
    label: int = 1
    name: str = "structure"
    plane: Plane | None = None


@dataclass(frozen=True)
class BoxPrompt:
    """One or more boxes, each with its own label. Where masks overlap, the later box wins."""

    boxes: tuple[Box, ...]
