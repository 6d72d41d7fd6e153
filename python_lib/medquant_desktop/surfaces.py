"""Surfaces of segmentations for the 3-D view, made by a process of their own while the window goes on."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from medquant_desktop.opening import Answer, ScanReader

LABELMAP, SURFACE = "Binary labelmap", "Closed surface"


class Surfaces:
    """Makes surfaces one segmentation after the other; the latest labels of each."""

    def __init__(self) -> None:
        self._maker: ScanReader | None = None
        self._waiting: list[tuple[Any, Callable[[], None]]] = []
        self._busy = False
        self._writing: Any = None

    def make(self, segmentation: Any, done: Callable[[], None]) -> None:
        """Give a segmentation node its surfaces, then call `done`. Its labels must lie in one image, as ours do."""
        self._waiting = [entry for entry in self._waiting if entry[0] is not segmentation]
        self._waiting.append((segmentation, done))
        self._next()

    def close(self) -> None:
        """Stop."""
        self._waiting = []
        if self._writing is not None:
            self._writing.stop()
        if self._maker is not None:
            self._maker.close()

    def _next(self) -> None:
        from MedQuantSlicerLib.turns import Turns, pieces_of, writing

        if self._busy or not self._waiting:
            return
        segmentation, done = self._waiting.pop(0)
        image = _labels_of(segmentation)
        if image is None:
            self._next()
            return
        self._busy = True
        self._maker = self._maker or ScanReader()
        extent, matrix = image.GetExtent(), vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        shape = tuple(extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0))
        file = str(self._maker.folder / f"{uuid.uuid4().hex}.npy")
        labels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
        parts = (labels[part] for part in pieces_of(shape, labels.itemsize))
        rows = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        request = {"surfaces_of": file, "ijk_to_ras": rows, "begin": [extent[0], extent[2], extent[4]]}
        when = image.GetMTime()

        def made(answer: Answer) -> None:
            self._made(segmentation, when, answer, done)
            for one in (file, *chain.from_iterable(answer.get("parts", {}).values())):
                Path(one).unlink(missing_ok=True)

        self._writing = Turns(
            writing(file, shape, labels.dtype, parts),
            lambda _: self._maker.read(request, made),
            lambda error: made({"kind": "error", "message": str(error)}),
        )

    def _made(self, node: Any, when: int, answer: Answer, done: Callable[[], None]) -> None:
        self._busy = False
        image = _labels_of(node)
        # Labels that have changed meanwhile were asked for again, and have their turn.
        if (
            answer["kind"] == "surfaces"
            and node.GetScene() is not None
            and image is not None
            and image.GetMTime() == when
        ):
            segmentation = node.GetSegmentation()
            for identifier in segmentation.GetSegmentIDs():
                segment = segmentation.GetSegment(identifier)
                part = answer["parts"].get(str(segment.GetLabelValue()))
                if part is not None:
                    segment.AddRepresentation(SURFACE, _poly_data(*(np.load(file) for file in part)))
            segmentation.Modified()
            node.GetDisplayNode().Modified()
            done()
        self._next()


def _labels_of(node: Any) -> Any:
    """The image that holds a segmentation's labels; None where there is none."""
    segmentation = node.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        return None
    image = segmentation.GetNthSegment(0).GetRepresentation(LABELMAP)
    return image if image is not None and image.GetPointData().GetScalars() is not None else None


def _poly_data(points: np.ndarray, triangles: np.ndarray, normals: np.ndarray) -> Any:
    made, where, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    where.SetData(numpy_to_vtk(points, deep=True))
    offsets = np.arange(0, triangles.size + 1, 3, dtype=np.int64)
    cells.SetData(numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(triangles.ravel(), deep=True))
    made.SetPoints(where)
    made.SetPolys(cells)
    upright = numpy_to_vtk(normals, deep=True)
    upright.SetName("Normals")
    made.GetPointData().SetNormals(upright)
    return made
