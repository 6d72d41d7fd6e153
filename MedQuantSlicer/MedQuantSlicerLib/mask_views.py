"""Which views draw which masks, and how: FP32 and quantized side by side, each kept out of the other's view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import slicer

from MedQuantSlicerLib import masks, scene
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED

VIEWS = {FP32: scene.FP32_VIEW, QUANTIZED: scene.QUANTIZED_VIEW, DIFFERENCE: scene.DIFFERENCE_VIEW}
"""Tag of the view of each kind of masks."""
SLICERS_VIEWS = (
    "vtkMRMLSliceNodeRed",
    "vtkMRMLSliceNodeYellow",
    "vtkMRMLSliceNodeGreen",
    "vtkMRMLViewNode1",
)
"""Those of 3D Slicer's usual layouts. They are named even where they are not: a scene that is saved while masks are
kept apart shows them wherever it is opened."""
APART_ATTRIBUTE = "MedQuant.KeptApart"
"""Of segmentations that were bound to views here and not by the user."""
FILL = 0.5
"""A fill lets through what lies under it."""
VEIL = 0.3
"""Of FP32 in 3-D, over the quantized surface: two solid ones in nearly one place would flicker through each other."""


def view_of(kind: str, flipped: bool = False) -> str:
    """The tag of the view that the masks of a kind, and their title, stand in.

    `flipped`: FP32 and quantized have changed places.
    """
    if flipped:
        kind = {FP32: QUANTIZED, QUANTIZED: FP32}.get(kind, kind)
    return VIEWS[kind]


def keep_apart(volume: Any, flipped: bool = False) -> None:
    """Draw the masks of a scan in their own views, those of other scans in none of these; elsewhere all are drawn."""
    own = {scene.view_id(tag) for tag in VIEWS.values()}
    there = (node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLAbstractViewNode"))
    elsewhere = [view for view in dict.fromkeys((*SLICERS_VIEWS, *there)) if view not in own]
    for kind, node in _results():
        shown = volume is not None and masks.segmentation_of(kind, volume) is node
        mine = [scene.view_id(view_of(kind, flipped))] if shown else []
        _bind(node, [*mine, *elsewhere])


def release() -> None:
    """Draw what was kept apart in every view, as ordinary segmentations are. What the user has bound stays bound."""
    for _kind, node in _results():
        if node.GetAttribute(APART_ATTRIBUTE):
            _bind(node, [])


@contextmanager
def drawn_everywhere() -> Iterator[None]:
    """While a scene is written: whoever opens it sees the masks in whatever views there are."""
    apart = [node for _kind, node in _results() if node.GetAttribute(APART_ATTRIBUTE)]
    before = [(node, list(node.GetDisplayNode().GetViewNodeIDs())) for node in apart]
    release()
    try:
        yield
    finally:
        for node, views in before:
            _bind(node, views)


def style(*, opacity: float, filled: bool) -> None:
    """How all results of this module are drawn; the opacity is that of the slices."""
    for kind, node in _results():
        display = node.GetDisplayNode()
        # The difference is a matter of areas: its outline would be mistaken for a mask's.
        display.SetVisibility2DFill(filled or kind == DIFFERENCE)
        display.SetOpacity2DOutline(opacity)
        display.SetOpacity2DFill(FILL * opacity)
        display.SetOpacity3D(VEIL if kind == FP32 else 1.0)


def _bind(node: Any, views: list[str]) -> None:
    """Draw a segmentation in these views only; none: in all."""
    node.GetDisplayNode().SetViewNodeIDs(views)
    node.SetAttribute(APART_ATTRIBUTE, "1" if views else None)


def _results() -> Iterator[tuple[str, Any]]:
    """Kind and segmentation of everything that this module computed and that can be drawn."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if masks.is_own(node) and node.GetDisplayNode() is not None:
            yield node.GetAttribute(masks.KIND_ATTRIBUTE), node
