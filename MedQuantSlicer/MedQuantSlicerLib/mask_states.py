"""What segmentations hold: by a digest of their voxels, which neither saving and loading nor drawing changes, and by
being told when somebody edits them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import slicer
import vtk

LABELMAP = "Binary labelmap"
EVENTS = ("SourceRepresentationModified", "SegmentAdded", "SegmentRemoved", "SegmentModified")
PLACE_MM = 0.1


class MaskStates:
    """Digests of segmentation nodes, found anew only where something in them has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple, str]] = {}

    def of(self, node: Any) -> str:
        """Changes with the voxels, the names and the order of the segments; never empty."""
        segments = _segments(node)
        times = tuple((name, value, image.GetMTime() if image is not None else 0) for name, value, image in segments)
        known = self._known.get(node.GetID())
        if known is None or known[0] != times:
            known = self._known[node.GetID()] = times, _digest(segments)
        return known[1]


class SegmentationWatch:
    """Calls `changed` whenever a segmentation of the scene was changed; `look` finds new ones."""

    def __init__(self, changed: Callable[..., None]) -> None:
        self._changed = changed
        self._observed: dict[Any, list[int]] = {}
        self.look()

    def look(self) -> None:
        """Observe the segmentations that are there now."""
        present = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        for node in [known for known in self._observed if known not in present]:
            self._forget(node)
        for node in present:
            if node not in self._observed:
                events = [getattr(slicer.vtkSegmentation, name) for name in EVENTS]
                self._observed[node] = [node.AddObserver(event, self._changed) for event in events]

    def close(self) -> None:
        """Observe nothing any longer."""
        for node in list(self._observed):
            self._forget(node)

    def _forget(self, node: Any) -> None:
        for tag in self._observed.pop(node):
            node.RemoveObserver(tag)


def _segments(node: Any) -> list[tuple[str, int, Any]]:
    """Name, label value and image of each segment, in order."""
    core = node.GetSegmentation()
    segments = [core.GetSegment(identifier) for identifier in core.GetSegmentIDs()]
    return [(one.GetName(), one.GetLabelValue(), one.GetRepresentation(LABELMAP)) for one in segments]


def _digest(segments: list[tuple[str, int, Any]]) -> str:
    found = zlib.crc32(repr([name for name, _value, _image in segments]).encode())
    images: dict[Any, list[tuple[int, int]]] = {}
    for number, (_name, value, image) in enumerate(segments, 1):
        if image is not None:  # segments that do not overlap share an image
            images.setdefault(image, []).append((number, value))
    for image, numbers in images.items():
        found = _digest_of_image(image, numbers, found)
    return f"{found:08x}"


def _digest_of_image(image: Any, numbers: list[tuple[int, int]], before: int) -> int:
    """The labelled part of an image and its place; how the values are numbered and how large the image is count not."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    extent, scalars = image.GetExtent(), image.GetPointData().GetScalars()
    shape = tuple(extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0))
    if scalars is None or min(shape) < 1:
        return before
    array = vtk_to_numpy(scalars).reshape(shape)
    table = np.zeros(max(int(array.max()), *(value for _number, value in numbers)) + 1, np.uint16)
    for number, value in numbers:
        table[value] = number
    if len(numbers) < 256:
        table = table.astype(np.uint8)
    labels = array.astype(table.dtype, copy=False) if (table == np.arange(len(table))).all() else table[array]
    plane = labels.any(axis=0)
    ends = [np.flatnonzero(inside) for inside in (labels.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))]
    if not ends[0].size:
        return before
    part = [slice(int(inside[0]), int(inside[-1]) + 1) for inside in ends]
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    first = [part[2].start + extent[0], part[1].start + extent[2], part[0].start + extent[4], 1.0]
    place = [round(along / PLACE_MM) for along in matrix.MultiplyPoint(first)[:3]]
    labels = np.ascontiguousarray(labels[tuple(part)])
    return zlib.crc32(labels, zlib.crc32(repr((labels.shape, place)).encode(), before))
