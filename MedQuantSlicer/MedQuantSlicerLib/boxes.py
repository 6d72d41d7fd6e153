"""Boxes in MRML: markups ROIs that the user draws on a scan, as corners for the engine."""

from __future__ import annotations

from itertools import product
from typing import Any

import slicer
import vtk

from MedQuantSlicerLib import scene
from MedQuantSlicerLib.host import BoxInfo
from MedQuantSlicerLib.messages import _

BOX_ATTRIBUTE = "MedQuant.Box"
VOLUME_ROLE = "MedQuant.Volume"
GLYPH_SCALE, HANDLE_SCALE, HANDLE_OPACITY = 1.0, 1.8, 0.6
"""Of the parts to drag: small and calm, so that the edge of the organ beneath them can be seen."""
OPACITY, RESTING_OPACITY = 0.7, 0.22
"""Of a box's lines, which MRML draws three pixels wide, wider than a mask's: a veil over the anatomy, no more."""


def boxes_of(volume: Any) -> list[Any]:
    """The finished boxes of a scan, in the order in which they were drawn."""
    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    placed = box_being_placed()
    drawn = (node for node in nodes if node.GetNumberOfDefinedControlPoints() > 0 and node is not placed)
    return [node for node in drawn if _belongs(node, volume)]


def _belongs(node: Any, volume: Any) -> bool:
    return node.GetAttribute(BOX_ATTRIBUTE) is not None and node.GetNodeReference(VOLUME_ROLE) is volume


def box_being_placed() -> Any:
    """The box that the next clicks draw, or None."""
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    if selection is None or interaction is None or interaction.GetCurrentInteractionMode() != interaction.Place:
        return None
    node = slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID() or "")
    return node if node is not None and node.GetAttribute(BOX_ATTRIBUTE) is not None else None


def describe_boxes(volume: Any) -> tuple[BoxInfo, ...]:
    """The boxes of a scan for the engine: name, corners, and one label for each name."""
    labels: dict[str, int] = {}
    return tuple(
        BoxInfo(node.GetName(), corners_of(node), labels.setdefault(node.GetName(), len(labels) + 1))
        for node in boxes_of(volume)
    )


def corners_of(node: Any) -> tuple[tuple[float, float, float], ...]:
    """The eight corners of a box in the world, LPS, with its own orientation and the transforms above it."""
    half = [length / 2 for length in node.GetSize()]
    matrix = scene.multiplied(scene.node_to_world(node), node.GetObjectToNodeMatrix())
    corners = (matrix.MultiplyPoint([*map(lambda s, h: s * h, sign, half), 1.0]) for sign in product((-1, 1), repeat=3))
    return tuple(scene.flipped(corner) for corner in corners)


def new_box(volume: Any, name: str = "") -> Any:
    """An empty box of a scan, ready to be drawn."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name or _free_name(volume))
    node.SetAttribute(BOX_ATTRIBUTE, "1")
    node.SetNodeReferenceID(VOLUME_ROLE, volume.GetID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None:
        display.SetColor(1.0, 1.0, 1.0)
        display.SetSelectedColor(1.0, 1.0, 1.0)
        display.SetFillVisibility(False)
        display.SetPropertiesLabelVisibility(False)
        # The eight corners and six faces to drag, nothing to turn: the model sees the scan's own slices.
        display.SetScaleHandleVisibility(True)
        display.SetRotationHandleVisibility(False)
        display.SetTranslationHandleVisibility(False)
        display.SetGlyphScale(GLYPH_SCALE)
        display.SetInteractionHandleScale(HANDLE_SCALE)
        if hasattr(display, "SetInteractionHandleOpacity"):  # its colours are the axes' and loud
            display.SetInteractionHandleOpacity(HANDLE_OPACITY)
        rest(node, False)
    return node


def rest(node: Any, resting: bool) -> None:
    """Step back behind the masks: a faint line without handles, or come forward again to be dragged."""
    display = node.GetDisplayNode()
    if display is not None:
        display.SetHandlesInteractive(not resting)
        display.SetOpacity(RESTING_OPACITY if resting else OPACITY)
        display.SetVisibility3D(not resting)


def _free_name(volume: Any) -> str:
    taken = {node.GetName() for node in boxes_of(volume)}
    number = next(n for n in range(1, len(taken) + 2) if _("Structure {n}").format(n=n) not in taken)
    return _("Structure {n}").format(n=number)


def begin_placing(node: Any) -> None:
    """Let the next two clicks in a slice view draw this box."""
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    selection.SetReferenceActivePlaceNodeClassName(node.GetClassName())
    selection.SetActivePlaceNodeID(node.GetID())
    interaction.SetPlaceModePersistence(0)
    interaction.SetCurrentInteractionMode(interaction.Place)


def end_placing() -> None:
    """Clicks draw nothing any longer; boxes that were not drawn are taken away."""
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    if interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place:
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    drop_undrawn()


def drop_undrawn() -> None:
    """Take boxes away that were begun and given up, by the Escape key for one."""
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        undrawn = node.GetAttribute(BOX_ATTRIBUTE) is not None and node.GetNumberOfDefinedControlPoints() == 0
        if undrawn and node is not box_being_placed():
            slicer.mrmlScene.RemoveNode(node)


def fit_box(node: Any, volume: Any, lower: tuple[int, int, int], upper: tuple[int, int, int]) -> None:
    """Put a box around the voxels from `lower` to `upper` (i, j, k; both inclusive), along the scan's own axes."""
    to_world = scene.ijk_to_world(volume)
    middle = [(low + high) / 2 for low, high in zip(lower, upper)]
    center = to_world.MultiplyPoint([*middle, 1.0])
    into_node = scene.inverted(scene.node_to_world(node))
    placed, size = vtk.vtkMatrix4x4(), []
    for axis in range(3):
        column = [to_world.GetElement(row, axis) for row in range(3)]
        length = sum(part * part for part in column) ** 0.5
        size.append((upper[axis] - lower[axis] + 1) * length)
        for row in range(3):
            placed.SetElement(row, axis, column[row] / length)
    for row in range(3):
        placed.SetElement(row, 3, center[row])
    node.SetSize(size)
    node.SetAndObserveObjectToNodeMatrix(scene.multiplied(into_node, placed))


def deepen_flat_box(node: Any, volume: Any) -> None:
    """Give a box that was drawn in a slice the depth of one slice of the scan, where it has none."""
    size = list(node.GetSize())
    thin = [axis for axis in range(3) if size[axis] < 1e-3]
    if thin:
        for axis in thin:
            size[axis] = max(volume.GetSpacing())
        node.SetSize(size)
