"""Scans in MRML: what a volume is, its voxels and where they lie, for both applications.

MRML's world is RAS millimetres, the engine's is LPS; this file and its neighbours `boxes` and `masks` are the only
places that turn one into the other.
"""

from __future__ import annotations

import zlib
from typing import Any

import slicer
import vtk

from MedQuantSlicerLib.host import Matrix, Point, VolumeInfo
from MedQuantSlicerLib.messages import _

FP32_VIEW, QUANTIZED_VIEW, DIFFERENCE_VIEW = "MedQuantFP32", "MedQuantQuantized", "MedQuantDifference"
THREE_D_VIEW = "MedQuant3D"
"""Singleton tags of the views."""
MODALITY_ATTRIBUTE = "DICOM.Modality"
DIGEST_VOXELS = 500_000


def view_id(tag: str) -> str:
    """The id of the slice node with this singleton tag."""
    return f"vtkMRMLSliceNode{tag}"


def describe_volume(node: Any) -> VolumeInfo:
    """What the engine and the panel have to know of a volume, its voxels aside."""
    image = node.GetImageData()
    # VTK counts along (i, j, k).
    shape = tuple(reversed(image.GetDimensions())) if image is not None else (0, 0, 0)
    matrix = ijk_to_lps(node)
    when = image.GetMTime() if image is not None else 0
    return VolumeInfo(
        key=f"{node.GetID()} {when} {hash(matrix)}",
        name=node.GetName() or "",
        modality=_modality(node),
        shape=shape,
        spacing=tuple(sum(matrix[row][axis] ** 2 for row in range(3)) ** 0.5 for axis in range(3)),
        ijk_to_lps=matrix,
        digest=_digest(node),
        problem=_problem(node),
    )


def volume_array(node: Any) -> Any:
    """The voxels of a volume (k, j, i), as a view: not to be written to."""
    array = slicer.util.arrayFromVolume(node).view()
    array.flags.writeable = False
    return array


def ijk_to_lps(node: Any) -> Matrix:
    """From voxel indices (i, j, k, 1) to the world in LPS, with the linear transforms above the volume."""
    return to_lps(ijk_to_world(node))


def ijk_to_world(node: Any) -> vtk.vtkMatrix4x4:
    """From voxel indices to the world in RAS, with the linear transforms above the volume."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return multiplied(node_to_world(node), matrix)


def node_to_world(node: Any) -> vtk.vtkMatrix4x4:
    """The linear transforms above a node, as one matrix; the identity where there is none, or none that is linear."""
    matrix = vtk.vtkMatrix4x4()
    transform = node.GetParentTransformNode()
    if transform is not None and transform.IsTransformToWorldLinear():
        transform.GetMatrixTransformToWorld(matrix)
    return matrix


def multiplied(*matrices: vtk.vtkMatrix4x4) -> vtk.vtkMatrix4x4:
    """The product of matrices: the last is applied first."""
    product = vtk.vtkMatrix4x4()
    for matrix in matrices:
        vtk.vtkMatrix4x4.Multiply4x4(product, matrix, product)
    return product


def inverted(matrix: vtk.vtkMatrix4x4) -> vtk.vtkMatrix4x4:
    """The inverse of a matrix."""
    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(matrix, inverse)
    return inverse


def to_lps(matrix: vtk.vtkMatrix4x4) -> Matrix:
    """A matrix into RAS as one into LPS: the first two coordinates change sign."""
    signs = (-1.0, -1.0, 1.0, 1.0)
    return tuple(tuple(signs[row] * matrix.GetElement(row, column) + 0.0 for column in range(4)) for row in range(4))


def flipped(point: Any) -> Point:
    """A point from RAS to LPS, or back."""
    return (-point[0] + 0.0, -point[1] + 0.0, point[2] + 0.0)


def _modality(node: Any) -> str:
    """By the node's own attribute, by the subject hierarchy's, by what the values are, or "" where nothing tells."""
    told = node.GetAttribute(MODALITY_ATTRIBUTE) or _hierarchy_modality(node)
    if told:
        return told if told in ("CT", "MR") else ""
    image = node.GetImageData()
    if image is None or image.GetNumberOfScalarComponents() != 1:
        return ""
    from medquant.imaging.windows import guess_modality

    return guess_modality(volume_array(node))


def _hierarchy_modality(node: Any) -> str:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return ""
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetItemAttribute(item, MODALITY_ATTRIBUTE) if item else ""


def is_of_another_scan(segmentation: Any, volume: Any) -> bool:
    """Whether a segmentation (or None) was drawn on another volume than this one (or None)."""
    if segmentation is None or volume is None:
        return False
    drawn_on = segmentation.GetNodeReferenceID(segmentation.GetReferenceImageGeometryReferenceRole())
    return bool(drawn_on) and drawn_on != volume.GetID()


def _digest(node: Any) -> str:
    """Tells one scan from another by voxels from all over it: to read all of them would keep the user waiting."""
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        return ""
    array = volume_array(node)
    every = max(1, array.size // DIGEST_VOXELS) | 1  # odd, so that it walks through columns, too
    return f"{zlib.crc32(array.reshape(-1)[::every].tobytes(), zlib.crc32(repr(array.shape).encode())):08x}"


def _problem(node: Any) -> str:
    """Why a volume cannot be used: one sentence on what is wrong and one on what to do."""
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        return _("This volume has no voxels. Load it again, or choose another one.")
    if image.GetNumberOfScalarComponents() != 1:
        return _(
            "This volume has several values for each voxel (a colour picture or a vector image). "
            "Choose a scan with one value for each voxel."
        )
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("This is a label map, not a scan. Choose the scan; the labels can be the reference.")
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        return _("This volume stands under a transform that is not linear. Harden the transform first.")
    return ""
