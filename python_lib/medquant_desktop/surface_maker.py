"""From labels to smooth closed surfaces, in the reading process: it takes seconds for a large scan."""

from __future__ import annotations

import numpy as np

SMOOTHING, PASS_BAND = 30, 0.01
"""Iterations and pass band of the windowed sinc filter: steps of voxels go, volume stays."""

Surface = tuple[np.ndarray, np.ndarray, np.ndarray]


def surfaces_of(labels: np.ndarray, ijk_to_ras: np.ndarray) -> dict[int, Surface]:
    """By label: points (n, 3) in RAS mm, triangles (m, 3) and normals (n, 3) of labels (k, j, i)."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    # A border of background closes what the scan's edge cuts off.
    padded = np.pad(labels, 1)
    image = vtkImageData()
    image.SetDimensions(*reversed(padded.shape))
    image.SetOrigin(-1.0, -1.0, -1.0)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(padded).reshape(-1)))
    return {int(value): _surface(image, int(value), ijk_to_ras) for value in np.unique(labels) if value}


def _surface(image: object, value: int, ijk_to_ras: np.ndarray) -> Surface:
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonMath import vtkMatrix4x4
    from vtkmodules.vtkCommonTransforms import vtkMatrixToLinearTransform
    from vtkmodules.vtkFiltersCore import vtkPolyDataNormals, vtkWindowedSincPolyDataFilter
    from vtkmodules.vtkFiltersGeneral import vtkDiscreteFlyingEdges3D, vtkTransformPolyDataFilter

    edges = vtkDiscreteFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, value)
    edges.ComputeGradientsOff()
    edges.ComputeNormalsOff()
    matrix, into_world = vtkMatrix4x4(), vtkMatrixToLinearTransform()
    matrix.DeepCopy(np.asarray(ijk_to_ras, float).ravel().tolist())
    into_world.SetInput(matrix)
    placed = vtkTransformPolyDataFilter()
    placed.SetTransform(into_world)
    placed.SetInputConnection(edges.GetOutputPort())
    smooth = vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(placed.GetOutputPort())
    smooth.SetNumberOfIterations(SMOOTHING)
    smooth.SetPassBand(PASS_BAND)
    smooth.BoundarySmoothingOff()
    smooth.FeatureEdgeSmoothingOff()
    smooth.NonManifoldSmoothingOn()
    smooth.NormalizeCoordinatesOn()
    normals = vtkPolyDataNormals()
    normals.SetInputConnection(smooth.GetOutputPort())
    normals.SplittingOff()
    normals.AutoOrientNormalsOn()
    normals.Update()
    made = normals.GetOutput()
    if not made.GetNumberOfPoints():
        empty = np.zeros((0, 3), np.float32)
        return empty, np.zeros((0, 3), np.int64), empty
    return (
        vtk_to_numpy(made.GetPoints().GetData()).astype(np.float32),
        vtk_to_numpy(made.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64),
        vtk_to_numpy(made.GetPointData().GetNormals()).astype(np.float32),
    )
