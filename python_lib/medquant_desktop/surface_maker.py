"""From two models' labels to one smooth surface that knows where they differ, in the reading process: it takes seconds
for a large scan."""

from __future__ import annotations

import numpy as np

SMOOTHING, PASS_BAND = 30, 0.01
"""Iterations and pass band of the windowed sinc filter: steps of voxels go, volume stays."""

Surface = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def surface_of(fp32: np.ndarray, quantized: np.ndarray, ijk_to_ras: np.ndarray) -> Surface:
    """The surface around what either model found (labels (k, j, i) on one grid; nothing is 0).

    Gives points (n, 3) in RAS mm, triangles (m, 3), normals (n, 3), and for each point how many mm it lies outside what
    both found: positive where only the quantized model goes so far, negative where only FP32 does. One surface, as two
    in nearly one place would flicker through each other.
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    either = (fp32 > 0) | (quantized > 0)
    # A border of background closes what the scan's edge cuts off.
    padded = np.pad(either, 1).astype(np.uint8)
    image = vtkImageData()
    image.SetDimensions(*reversed(padded.shape))
    image.SetOrigin(-1.0, -1.0, -1.0)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.reshape(-1)))
    ijk, points, triangles, normals = _smooth(image, ijk_to_ras)
    return points, triangles, normals, _apart(ijk, fp32 > 0, quantized > 0, np.asarray(ijk_to_ras, float))


def _apart(ijk: np.ndarray, fp32: np.ndarray, quantized: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """Signed mm from the voxel inside each point to the nearest one that both models found."""
    from scipy.ndimage import binary_erosion
    from scipy.spatial import cKDTree

    apart = np.zeros(len(ijk), np.float32)
    if not len(ijk):
        return apart
    inside = _inside(ijk, fp32 | quantized)
    place = tuple(inside.T[::-1])
    of_quantized, both = quantized[place], fp32[place] & quantized[place]
    common = fp32 & quantized
    rim = np.argwhere(common & ~binary_erosion(common))[:, ::-1]
    if not len(rim):
        return np.where(of_quantized, np.inf, -np.inf).astype(np.float32)
    into_mm = ijk_to_ras[:3, :3].T
    distance, _nearest = cKDTree(rim @ into_mm).query(inside[~both] @ into_mm)
    apart[~both] = np.where(of_quantized[~both], distance, -distance)
    return apart


def _inside(ijk: np.ndarray, either: np.ndarray) -> np.ndarray:
    """The voxel (i, j, k) inside each point of a surface, which lies halfway between one inside and one outside."""
    low, high = np.floor(ijk).astype(int), np.ceil(ijk).astype(int)
    most = np.array(either.shape[::-1]) - 1
    is_voxel = ((low >= 0) & (low <= most)).all(axis=1)
    clipped = np.clip(low, 0, most)
    chosen = is_voxel & either[tuple(clipped.T[::-1])]
    return np.where(chosen[:, None], clipped, np.clip(high, 0, most))


def _smooth(image: object, ijk_to_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points as they lie between the voxels (i, j, k), the same points smoothed in RAS, triangles, normals."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonMath import vtkMatrix4x4
    from vtkmodules.vtkCommonTransforms import vtkMatrixToLinearTransform
    from vtkmodules.vtkFiltersCore import vtkPolyDataNormals, vtkWindowedSincPolyDataFilter
    from vtkmodules.vtkFiltersGeneral import vtkDiscreteFlyingEdges3D, vtkTransformPolyDataFilter

    edges = vtkDiscreteFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 1)
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
        return empty, empty, np.zeros((0, 3), np.int64), empty
    return (
        vtk_to_numpy(edges.GetOutput().GetPoints().GetData()).astype(np.float32),
        vtk_to_numpy(made.GetPoints().GetData()).astype(np.float32),
        vtk_to_numpy(made.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64),
        vtk_to_numpy(made.GetPointData().GetNormals()).astype(np.float32),
    )
