"""What segmentations hold: by a digest of their voxels, which neither saving and loading nor drawing changes, and by
being told when somebody edits them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import slicer
import vtk

LABELMAP = "Binary labelmap"
EVENTS = ("SourceRepresentationModified", "SegmentAdded", "SegmentRemoved", "SegmentModified")
PLACE_MM = 0.1


_known: dict[str, tuple[tuple, str]] = {}
"""By node, for everybody who asks: the times of its images, and the digest that they had then."""


class MaskStates:
    """Digests of segmentation nodes, found anew only where something in them has changed."""

    def of(self, node: Any) -> str:
        """Changes with the voxels, the names and the order of the segments; never empty."""
        for _slice in self.finding([node]):
            pass
        return _known[node.GetID()][1]

    def finding(self, nodes: Iterable[Any]) -> Generator[None, None, None]:
        """Find the digests of nodes slice by slice, so that `of` answers at once afterwards."""
        for node in nodes:
            segments, times = _segments(node), _times(node)
            known = _known.get(node.GetID())
            if known is None or known[0] != times:
                _known[node.GetID()] = times, (yield from _digest(segments))


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


def _times(node: Any) -> tuple:
    return tuple((name, value, image.GetMTime() if image is not None else 0) for name, value, image in _segments(node))


def _digest(segments: list[tuple[str, int, Any]]) -> Generator[None, None, str]:
    found = zlib.crc32(repr([name for name, _value, _image in segments]).encode())
    images: dict[Any, list[tuple[int, int]]] = {}
    for number, (_name, value, image) in enumerate(segments, 1):
        if image is not None:  # segments that do not overlap share an image
            images.setdefault(image, []).append((number, value))
    for image, numbers in images.items():
        found = yield from _digest_of_image(image, numbers, found)
    return f"{found:08x}"


def _digest_of_image(image: Any, numbers: list[tuple[int, int]], before: int) -> Generator[None, None, int]:
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
    as_numbered = bool((table == np.arange(len(table))).all())
    found = []
    for k, values in enumerate(array):
        yield
        labels = values.astype(table.dtype, copy=False) if as_numbered else table.take(values, mode="clip")
        rows = np.flatnonzero(labels.any(axis=1))
        if rows.size:
            labels = labels[rows[0] : rows[-1] + 1]
            columns = np.flatnonzero(labels.any(axis=0))
            labels = np.ascontiguousarray(labels[:, columns[0] : columns[-1] + 1])
            found.append((k, int(rows[0]), int(columns[0]), labels.shape, zlib.crc32(labels)))
    if not found:
        return before
    first = [min(one[axis] for one in found) for axis in range(3)]
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    world = matrix.MultiplyPoint([first[2] + extent[0], first[1] + extent[2], first[0] + extent[4], 1.0])
    place = [round(along / PLACE_MM) for along in world[:3]]
    slices = [(k - first[0], j - first[1], i - first[2], *rest) for k, j, i, *rest in found]
    return zlib.crc32(repr((place, slices)).encode(), before)
