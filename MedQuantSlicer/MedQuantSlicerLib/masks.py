"""Masks in MRML: label arrays as ordinary segmentations with names, terminology and colours, and back."""

from __future__ import annotations

import colorsys
from typing import Any

import slicer
import vtk

from MedQuantSlicerLib.host import DIFFERENCE, FP32, FP32_ONLY, QUANTIZED

KIND_ATTRIBUTE = "MedQuant.Kind"
COLORS = {FP32: (0x4C / 255, 0x9B / 255, 0xE8 / 255), QUANTIZED: (0xF2 / 255, 0xA3 / 255, 0x3A / 255)}
"""Blue and amber: told apart by colour-blind people too, and both hold on grey."""
_LABELMAP = "Binary labelmap"
_OWN = "MedQuant_"
"""With the label value, the id of a segment; those that a user adds are left alone."""


def segmentation_of(kind: str, volume: Any) -> Any:
    """The segmentation with the masks of a kind on a scan; None where there is none."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(KIND_ATTRIBUTE) == kind and _reference_volume(node) is volume:
            return node
    return None


def is_own(node: Any) -> bool:
    """Whether a segmentation holds results of this module."""
    return bool(node.GetAttribute(KIND_ATTRIBUTE))


def show(
    kind: str, labels: Any, names: dict[int, str], volume: Any, *, title: str, offset=(0, 0, 0), partial: bool = False
) -> Any:
    """Put labels (k, j, i) on a scan's grid into the segmentation of a kind, which is made where there is none.

    They begin at the voxel `offset` (k, j, i); outside there is nothing, or with `partial` what was there before. The
    scan is not touched. Returns the segmentation node.
    """
    node = segmentation_of(kind, volume) or _new(kind, volume)
    node.SetName(f"{volume.GetName()} {title}")
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    image = _image_with(node, volume, labels, offset) if partial else _image(labels, offset, volume)
    was_modifying = node.StartModify()
    _set_segments(node, image, names, kind)
    node.EndModify(was_modifying)
    return node


def remove(kind: str, volume: Any) -> None:
    """Take the segmentation of a kind away."""
    node = segmentation_of(kind, volume)
    if node is not None:
        slicer.mrmlScene.RemoveNode(node)


def labels_on(segmentation: Any, volume: Any, segments: list[str] | None = None) -> tuple[Any, dict[int, str]]:
    """Segments (all: None) as labels 1, 2... on a scan's grid (k, j, i), whatever grid and transforms they have.

    Raises `ValueError` where MRML cannot put them there.
    """
    segmentation_core = segmentation.GetSegmentation()
    chosen = segments or list(segmentation_core.GetSegmentIDs())
    identifiers = vtk.vtkStringArray()
    for identifier in chosen:
        identifiers.InsertNextValue(identifier)
    # A label for each in the order given: segments keep values of their own inside.
    exported = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    exported.SetHideFromEditors(True)
    try:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if not chosen or not logic.ExportSegmentsToLabelmapNode(segmentation, identifiers, exported, volume):
            raise ValueError
        array = slicer.util.arrayFromVolume(exported).copy()
    finally:
        display = exported.GetDisplayNode()
        if display is not None and display.GetColorNode() is not None:
            slicer.mrmlScene.RemoveNode(display.GetColorNode())
        slicer.mrmlScene.RemoveNode(exported)
    return array, {n: segmentation_core.GetSegment(i).GetName() for n, i in enumerate(chosen, 1)}


# -- inside


def _reference_volume(node: Any) -> Any:
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def _new(kind: str, volume: Any) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetAttribute(KIND_ATTRIBUTE, kind)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    display = node.GetDisplayNode()
    if display is not None:
        display.SetVisibility2DOutline(kind != DIFFERENCE)
        display.SetVisibility2DFill(kind == DIFFERENCE)
        display.SetSliceIntersectionThickness(2)
    return node


def _image_with(node: Any, volume: Any, block: Any, begin: Any) -> Any:
    """The image of a segmentation's labels with a block in its place: the one it has, where that covers the scan.

    So each block costs what it holds, not what was there before. The system gives memory to those parts of the image
    only that are written to.
    """
    import numpy as np

    shape = tuple(reversed(volume.GetImageData().GetDimensions()))
    image = _only_image(node)
    if image is None or _array_of(image) is None or _array_of(image).shape != shape:
        old, old_begin = _current(node, volume)
        dtype = block.dtype if old is None else np.promote_types(old.dtype, block.dtype)
        image = _image(np.zeros(shape, dtype), (0, 0, 0), volume, copy=False)
        if old is not None:
            _put(_array_of(image), old, old_begin)
    elif block.dtype.itemsize > _array_of(image).dtype.itemsize:
        image = _image(_array_of(image).astype(block.dtype), (0, 0, 0), volume)
    _place(image, volume)
    _put(_array_of(image), block, begin)
    scalars = image.GetPointData().GetScalars()
    scalars.Modified()
    image.Modified()
    return image


def _place(image: Any, volume: Any) -> None:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image.SetImageToWorldMatrix(matrix)


def _put(whole: Any, block: Any, begin: Any) -> None:
    whole[tuple(slice(start, start + size) for start, size in zip(begin, block.shape))] = block


def _only_image(node: Any) -> Any:
    """The image that all segments share, all of them ours; None where there is none, or the user has edited them."""
    segmentation = node.GetSegmentation()
    identifiers = list(segmentation.GetSegmentIDs())
    if not identifiers or segmentation.GetNumberOfLayers() != 1 or not all(i.startswith(_OWN) for i in identifiers):
        return None
    return segmentation.GetSegment(identifiers[0]).GetRepresentation(_LABELMAP)


def _array_of(image: Any) -> Any:
    """An image's labels (k, j, i), to be written to; None where it is empty."""
    from vtk.util.numpy_support import vtk_to_numpy

    extent = image.GetExtent()
    shape = tuple(extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0))
    scalars = image.GetPointData().GetScalars()
    return vtk_to_numpy(scalars).reshape(shape) if scalars is not None and 0 not in shape else None


def _current(node: Any, volume: Any) -> tuple[Any, tuple[int, int, int]]:
    """The labels that a segmentation of ours holds, and the voxel (k, j, i) at which they begin."""
    import numpy as np

    segmentation = node.GetSegmentation()
    own = [identifier for identifier in segmentation.GetSegmentIDs() if identifier.startswith(_OWN)]
    if not own:
        return None, (0, 0, 0)
    image = _only_image(node)
    if image is None:  # segments may have layers, and labels, of their own
        array, _names = labels_on(node, volume, own)
        values = [0, *(int(identifier.removeprefix(_OWN)) for identifier in own)]
        return np.array(values, np.uint8 if max(values) < 256 else np.uint16)[array], (0, 0, 0)
    extent = image.GetExtent()
    return _array_of(image), (extent[4], extent[2], extent[0])


def _image(array: Any, begin: tuple[int, int, int], volume: Any, copy: bool = True) -> Any:
    """Labels as an oriented image of VTK, with the scan's own geometry (without the transforms above it)."""
    import numpy as np
    from vtk.util.numpy_support import numpy_to_vtk

    image = slicer.vtkOrientedImageData()
    extent = [(begin[axis], begin[axis] + array.shape[axis] - 1) for axis in (2, 1, 0)]
    image.SetExtent([bound for pair in extent for bound in pair])
    _place(image, volume)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=copy))
    return image


def _set_segments(node: Any, image: Any, names: dict[int, str], kind: str) -> None:
    """Give a segmentation one segment for each label, all in one image, as Slicer keeps what does not overlap."""
    segmentation = node.GetSegmentation()
    kept = {f"{_OWN}{value}" for value in names}
    for identifier in list(segmentation.GetSegmentIDs()):
        if identifier.startswith(_OWN) and identifier not in kept:
            segmentation.RemoveSegment(identifier)
    for order, (value, name) in enumerate(sorted(names.items())):
        segment = segmentation.GetSegment(f"{_OWN}{value}")
        if segment is None:
            segment = slicer.vtkSegment()
            segment.SetName(name)
            segment.SetColor(*_color(kind, order, value, len(names)))
            segment.SetTag(segment.GetTerminologyEntryTagName(), terminology(name))
            segment.SetLabelValue(value)
            segment.AddRepresentation(_LABELMAP, image)
            segmentation.AddSegment(segment, f"{_OWN}{value}")
        else:
            segment.SetName(name)
            segment.SetLabelValue(value)
            if segment.GetRepresentation(_LABELMAP) is not image:
                segment.AddRepresentation(_LABELMAP, image)
    # What was derived from the old labels, a surface for one, is derived anew when it is needed.
    segmentation.InvalidateNonSourceRepresentations()
    segmentation.Modified()


def _color(kind: str, order: int, value: int, count: int) -> tuple[float, float, float]:
    """The colour of the model: exactly for one structure, in neighbouring shades for several."""
    if kind == DIFFERENCE:
        return COLORS[FP32 if value == FP32_ONLY else QUANTIZED]
    hue, saturation, brightness = colorsys.rgb_to_hsv(*COLORS[kind])
    if count == 1:
        return COLORS[kind]
    # A tenth of the colour wheel, lighter and darker in turn.
    hue += 0.1 * ((order + 0.5) / count - 0.5)
    return colorsys.hsv_to_rgb(
        hue % 1.0, saturation * (1.0, 0.65, 0.85)[order % 3], brightness * (1.0, 1.0, 0.8)[order % 3]
    )


def terminology(name: str) -> str:
    """What a structure is called in SNOMED CT, as the tag of a segment."""
    from medquant.imaging.terminology import terminology_entry

    return terminology_entry(name)
