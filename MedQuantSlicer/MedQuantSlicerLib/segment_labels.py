"""Segments as labels on a scan's grid, some slices at a time: a whole scan would stop the application for a moment."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import slicer
import vtk

from MedQuantSlicerLib import masks, scene
from MedQuantSlicerLib.turns import pieces_of

LABELMAP = "Binary labelmap"


class SegmentLabels:
    """Segments (all: None) as labels 1, 2... on a scan's grid, whatever grid and transforms they have.

    Raises `ValueError` where there is none.
    """

    def __init__(self, segmentation: Any, volume: Any, segments: list[str] | None = None) -> None:
        self._node, self._volume = segmentation, volume
        core = segmentation.GetSegmentation()
        self._chosen = segments or list(core.GetSegmentIDs())
        if not self._chosen:
            raise ValueError("no segments")
        self.names = {n: core.GetSegment(one).GetName() for n, one in enumerate(self._chosen, 1)}
        """By label."""
        self.shape = tuple(reversed(volume.GetImageData().GetDimensions()))
        self.dtype = "uint8" if len(self._chosen) < 256 else "uint16"

    def blocks(self) -> Iterator[Any]:
        """Labels (k, j, i), slices after slices."""
        parts = pieces_of(self.shape, 2)
        core = self._node.GetSegmentation()
        images = [core.GetSegment(one).GetRepresentation(LABELMAP) for one in self._chosen]
        if None in images:  # surfaces or contours: MRML converts them, all at once
            array, _names = masks.labels_on(self._node, self._volume, self._chosen)
            return (array[part] for part in parts)
        values = [core.GetSegment(one).GetLabelValue() for one in self._chosen]
        return (self._block(part, images, values) for part in parts)

    def ends(self) -> Generator[None, None, Any]:
        """Goes through the blocks and returns the first and the last voxel (i, j, k) of what is labelled, or None."""
        import numpy as np

        found = [np.zeros(size, bool) for size in self.shape]
        start = 0
        for block in self.blocks():
            inside = block != 0
            found[0][start : start + len(block)] = inside.any(axis=(1, 2))
            found[1] |= inside.any(axis=(0, 2))
            found[2] |= inside.any(axis=(0, 1))
            start += len(block)
            yield
        if not found[0].any():
            return None
        # (k, j, i) to (i, j, k)
        places = [np.flatnonzero(along) for along in reversed(found)]
        return tuple(int(one[0]) for one in places), tuple(int(one[-1]) for one in places)

    def _block(self, part: slice, images: list[Any], values: list[int]) -> Any:
        """The later of two segments wins, as where MRML exports them."""
        import numpy as np
        from vtk.util.numpy_support import vtk_to_numpy

        shape = (part.stop - part.start, *self.shape[1:])
        block, seen = np.zeros(shape, self.dtype), {}
        for number, (image, value) in enumerate(zip(images, values), start=1):
            if image.GetPointData().GetScalars() is None:
                continue
            if image not in seen:  # segments that do not overlap share an image
                seen[image] = vtk_to_numpy(self._placed(image, part).GetPointData().GetScalars()).reshape(shape)
            block[seen[image] == value] = number
        return block

    def _placed(self, image: Any, part: slice) -> Any:
        """A segment's image on these slices of the scan."""
        matrix = vtk.vtkMatrix4x4()
        self._volume.GetIJKToRASMatrix(matrix)
        grid, placed = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
        grid.SetExtent(0, self.shape[2] - 1, 0, self.shape[1] - 1, part.start, part.stop - 1)
        grid.SetImageToWorldMatrix(matrix)
        grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
        if not resample(image, grid, placed, False, False, self._between()):
            raise ValueError("no place on the scan's grid")
        return placed

    def _between(self) -> Any:
        """From the segmentation's own space to the scan's, None where that is the same; a matrix where that is enough,
        which is faster by far."""
        above, over_scan = self._node.GetParentTransformNode(), self._volume.GetParentTransformNode()
        if above is over_scan:
            return None
        if above is None or above.IsTransformToWorldLinear():
            linear = vtk.vtkTransform()
            linear.SetMatrix(
                scene.multiplied(scene.inverted(scene.node_to_world(self._volume)), scene.node_to_world(self._node))
            )
            return linear
        general = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(above, over_scan, general)
        return general
