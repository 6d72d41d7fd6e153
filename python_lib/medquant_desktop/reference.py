"""A reference segmentation in the scene: grey outlines in every view, so that they are mistaken for nobody's result."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

GREY = (0.78, 0.81, 0.84)


def add_reference(labels: np.ndarray, names: dict[int, str], volume: Any, title: str) -> Any:
    """A segmentation node with one segment for each label (k, j, i) on the scan's own grid.

    Raises `ValueError` where the scan has other voxels.
    """
    from MedQuantSlicerLib import masks

    if labels.shape != tuple(reversed(volume.GetImageData().GetDimensions())):
        raise ValueError(f"{title} does not lie on the scan's voxels")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", title)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*reversed(labels.shape))
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image.SetImageToWorldMatrix(matrix)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(labels).ravel(), deep=True))
    for value, name in sorted(names.items()):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*GREY)
        segment.SetLabelValue(value)
        segment.SetTag(segment.GetTerminologyEntryTagName(), masks.terminology(name))
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"Segment_{value}")
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility3D(False)
    display.SetOpacity(0.7)
    display.SetSliceIntersectionThickness(1)
    return node
