"""A scan that was read, as a volume of the scene."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from medquant_desktop.opening import Answer
from medquant_desktop.slice_view import BODY_ATTRIBUTE


def add_scan(answer: Answer) -> Any:
    """A new volume node with what `scan_reader` has read."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", answer["name"])
    node.SetAttribute("DICOM.Modality", answer["modality"] or None)
    node.SetAttribute(BODY_ATTRIBUTE, json.dumps(answer["body"]))
    # The file is the memory: nothing is copied, and copy-on-write keeps it as it was.
    array = np.load(answer["array"], mmap_mode="c")
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(array.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(array.reshape(-1)))
    node.SetIJKToRASMatrix(_to_ras(answer["ijk_to_lps"]))
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    level, width = answer["window"]
    display.SetWindowLevel(width, level)
    return node


def grid_of(volume: Any) -> dict[str, Any]:
    """The scan's own grid, without the transforms above it."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    signs = (-1.0, -1.0, 1.0, 1.0)
    rows = [[signs[row] * matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
    return {"shape": list(reversed(volume.GetImageData().GetDimensions())), "ijk_to_lps": rows}


def _to_ras(ijk_to_lps: list[list[float]]) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    for row, sign in enumerate((-1.0, -1.0, 1.0, 1.0)):
        for column in range(4):
            matrix.SetElement(row, column, sign * ijk_to_lps[row][column])
    return matrix
