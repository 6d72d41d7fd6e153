"""Volumes of MRML in every orientation in which scans come."""

from __future__ import annotations

import numpy as np
import pytest

SPACING = (0.8, 1.1, 2.5)
ORIGIN = (-31.0, 12.0, 407.5)


def _turn(degrees: float, axis: int) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


# Columns: the directions of i, j, k in RAS.
DIRECTIONS = {
    "axial": np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "coronal": np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "sagittal": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "oblique": _turn(20, 0) @ _turn(-35, 2) @ np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "left-handed oblique": _turn(15, 1) @ _turn(40, 0) @ np.diag([-1.0, 1.0, 1.0]),
}
every_geometry = pytest.mark.parametrize("geometry", DIRECTIONS)


def ijk_to_ras(name: str) -> np.ndarray:
    """The matrix of a geometry."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(DIRECTIONS[name], float) * SPACING
    matrix[:3, 3] = ORIGIN
    return matrix


def add_volume(name: str = "axial", array: np.ndarray | None = None):
    """A volume of that geometry in the scene, 9 x 12 x 16 voxels (k, j, i) of values that all differ."""
    import slicer
    import vtk

    if array is None:
        array = np.arange(9 * 12 * 16, dtype=np.int16).reshape(9, 12, 16)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{name} scan")
    slicer.util.updateVolumeFromArray(node, array)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(ijk_to_ras(name).ravel())
    node.SetIJKToRASMatrix(matrix)
    return node


def add_transform(matrix: np.ndarray, *, above=None):
    """A linear transform in the scene."""
    import slicer
    import vtk

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    into = vtk.vtkMatrix4x4()
    into.DeepCopy(matrix.ravel())
    node.SetMatrixTransformToParent(into)
    if above is not None:
        node.SetAndObserveTransformNodeID(above.GetID())
    return node


def moved() -> np.ndarray:
    """A rigid motion that is along no axis."""
    matrix = np.eye(4)
    matrix[:3, :3] = _turn(25, 2) @ _turn(-10, 1)
    matrix[:3, 3] = (5.0, -7.0, 11.0)
    return matrix
