"""The surface of the masks for the 3-D view, made by a process of its own while the window goes on.

It is one surface around what either model found: grey where they agree, blue where only FP32 goes so far, amber where
only the quantized model does. It is drawn, not saved: the masks themselves are segmentations.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from medquant_desktop.opening import Answer, ScanReader
from medquant_desktop.theme import AGREED, FP32, QUANTIZED, channels

LABELMAP = "Binary labelmap"
NAME = "MedQuant surface"
CLOSE_MM, FAR_MM = 1.0, 3.0
"""Between these the colour begins; halfway lies the tolerance of the surface Dice."""


class Surfaces:
    """Makes the surface of the latest masks. `view` is the id of the view node that draws it."""

    def __init__(self) -> None:
        self.view = ""
        self._maker: ScanReader | None = None
        self._waiting: tuple[list[Any], Callable[[], None]] | None = None
        self._busy = False
        self._turn = 0
        self._model: Any = None
        self._writing: Any = None

    @property
    def shown(self) -> bool:
        """Whether there is a surface."""
        return self._model is not None and self._model.GetScene() is not None

    def make(self, fp32: Any, quantized: Any, done: Callable[[], None]) -> None:
        """Draw the surface of two segmentation nodes (or of one, the other being None), then call `done`.

        Their labels must lie in one image each, as ours do.
        """
        self._waiting = ([fp32, quantized], done)
        self._turn += 1
        self._next()

    def remove(self) -> None:
        """There are no masks any longer."""
        self._waiting = None
        self._turn += 1
        if self.shown:
            slicer.mrmlScene.RemoveNode(self._model)
        self._model = None

    def close(self) -> None:
        """Stop."""
        self.remove()
        if self._writing is not None:
            self._writing.stop()
        if self._maker is not None:
            self._maker.close()

    def _next(self) -> None:
        from MedQuantSlicerLib.turns import Turns

        if self._busy or self._waiting is None:
            return
        nodes, done = self._waiting
        self._waiting = None
        images = [_labels_of(node) if node is not None else None for node in nodes]
        there = next((image for image in images if image is not None), None)
        if there is None:
            return
        self._busy = True
        self._maker = self._maker or ScanReader()
        matrix = vtk.vtkMatrix4x4()
        there.GetImageToWorldMatrix(matrix)
        rows = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        transform = next(node for node in nodes if node is not None).GetTransformNodeID()
        single = [QUANTIZED, FP32][images.index(None)] if None in images else ""
        turn = self._turn

        def made(answer: Answer) -> None:
            self._made(turn, answer, transform, single, done)

        self._writing = Turns(
            _written(images, self._maker.folder),
            lambda parts: self._maker.read({"surface_of": parts, "ijk_to_ras": rows}, made),
            lambda error: made({"kind": "error", "message": str(error)}),
        )

    def _made(self, turn: int, answer: Answer, transform: str | None, single: str, done: Callable[[], None]) -> None:
        self._busy = False
        # Masks that have changed meanwhile have their own turn.
        if turn == self._turn and answer["kind"] == "surface":
            points, triangles, normals, apart = (np.load(file) for file in answer["parts"])
            colors = np.tile(channels(single), (len(points), 1)) if single else colors_of(apart)
            self._draw(_poly_data(points, triangles, normals, colors), transform)
            done()
        for file in self._maker.folder.glob("*.npy"):
            file.unlink(missing_ok=True)
        self._next()

    def _draw(self, surface: Any, transform: str | None) -> None:
        if not self.shown:
            self._model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", NAME)
            self._model.SetHideFromEditors(True)
            self._model.SetSaveWithScene(False)
            self._model.CreateDefaultDisplayNodes()
            display = self._model.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetVisibility2D(False)
            display.SetViewNodeIDs([self.view])
            display.SetActiveScalarName(NAME)
            display.SetScalarRangeFlag(display.UseDirectMapping)
            display.SetScalarVisibility(True)
            display.SetSpecular(0.1)
        self._model.SetAndObserveTransformNodeID(transform)
        self._model.SetAndObservePolyData(surface)


def colors_of(apart: np.ndarray) -> np.ndarray:
    """Red, green, blue (uint8) of points that lie so many mm outside what both models found; see `surface_of`."""
    part = np.clip((np.abs(apart) - CLOSE_MM) / (FAR_MM - CLOSE_MM), 0.0, 1.0)[:, None]
    alone = np.where((apart > 0)[:, None], channels(QUANTIZED), channels(FP32))
    return np.round(part * alone + (1 - part) * np.array(channels(AGREED))).astype(np.uint8)


def _written(images: list[Any], folder: Path) -> Generator[None, None, list[dict[str, Any] | None]]:
    """Write the labels of images to files, and say where and at which voxel (i, j, k) they begin."""
    from MedQuantSlicerLib.turns import pieces_of, writing

    parts: list[dict[str, Any] | None] = []
    for image in images:
        if image is None:
            parts.append(None)
            continue
        extent = image.GetExtent()
        shape = tuple(extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0))
        labels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
        file = str(folder / f"{uuid.uuid4().hex}.npy")
        blocks = (labels[piece] for piece in pieces_of(shape, labels.itemsize))
        yield from writing(file, shape, labels.dtype, blocks)
        parts.append({"array": file, "begin": [extent[0], extent[2], extent[4]]})
    return parts


def _labels_of(node: Any) -> Any:
    """The image that holds a segmentation's labels; None where there is none."""
    segmentation = node.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        return None
    image = segmentation.GetNthSegment(0).GetRepresentation(LABELMAP)
    return image if image is not None and image.GetPointData().GetScalars() is not None else None


def _poly_data(points: np.ndarray, triangles: np.ndarray, normals: np.ndarray, colors: np.ndarray) -> Any:
    made, where, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    where.SetData(numpy_to_vtk(points, deep=True))
    offsets = np.arange(0, triangles.size + 1, 3, dtype=np.int64)
    cells.SetData(numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(triangles.ravel(), deep=True))
    made.SetPoints(where)
    made.SetPolys(cells)
    upright = numpy_to_vtk(normals, deep=True)
    upright.SetName("Normals")
    made.GetPointData().SetNormals(upright)
    painted = numpy_to_vtk(np.ascontiguousarray(colors, dtype=np.uint8), deep=True)
    painted.SetName(NAME)
    made.GetPointData().SetScalars(painted)
    return made
