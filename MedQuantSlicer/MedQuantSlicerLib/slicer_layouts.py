"""Layouts of our own in 3D Slicer: FP32 and quantized side by side, with their difference, and with 3-D too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer

from MedQuantSlicerLib import mask_views, scene
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED
from MedQuantSlicerLib.messages import _

PAIR, TRIPLE, QUAD = 8251, 8252, 8253
"""Numbers of our own among the custom layouts; those below 100 are Slicer's."""
LABELS = {FP32: ("FP32", "#4C9BE8"), QUANTIZED: ("Quantized", "#F2A33A"), DIFFERENCE: ("Difference", "#9A9A9A")}
"""What stands in the bar above the view of each kind, and the bar's colour."""
_GROUP = 8251
"""Linked views move with those of their group: these with each other, not with others that the user has linked."""
_SLICES = """
<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
  <property name="orientation" action="default">Axial</property>
  <property name="viewlabel" action="default">{label}</property>
  <property name="viewcolor" action="default">{color}</property>
  <property name="viewgroup" action="default">{group}</property>
</view></item>"""
_THREE_D = f"""
<item><view class="vtkMRMLViewNode" singletontag="{scene.THREE_D_VIEW}">
  <property name="viewlabel" action="default">3-D</property>
</view></item>"""


def _slices(kind: str) -> str:
    label, color = LABELS[kind]
    return _SLICES.format(tag=mask_views.VIEWS[kind], label=label, color=color, group=_GROUP)


def _row(views: str) -> str:
    return f'<layout type="horizontal" split="true">{views}</layout>'


_PAIR = _slices(FP32) + _slices(QUANTIZED)
LAYOUTS = {
    PAIR: _row(_PAIR),
    TRIPLE: _row(_PAIR + _slices(DIFFERENCE)),
    QUAD: '<layout type="vertical" split="true">'
    f"<item>{_row(_PAIR)}</item><item>{_row(_slices(DIFFERENCE) + _THREE_D)}</item></layout>",
}
KINDS = {PAIR: (FP32, QUANTIZED), TRIPLE: (FP32, QUANTIZED, DIFFERENCE), QUAD: (FP32, QUANTIZED, DIFFERENCE)}
"""What has a slice view in each layout."""


def register(manager: Any) -> None:
    """Make the layouts known to Slicer and offer them in its layout menu. `manager` is the layout manager."""
    node = manager.layoutLogic().GetLayoutNode()
    unknown = [number for number in LAYOUTS if not node.IsLayoutDescription(number)]
    for number in unknown:
        node.AddLayoutDescription(number, LAYOUTS[number])
    if unknown:
        _offer(slicer.util.mainWindow())


def _offer(window: Any) -> None:
    """Slicer's main window follows what its layout menu holds."""
    bar = window.findChild("QToolBar", "ViewToolBar") if window is not None else None
    button = bar.widgetForAction(bar.actions()[0]) if bar is not None and len(bar.actions()) else None
    if button is None or button.menu() is None:
        return
    titles = {
        PAIR: _("MedQuant: FP32 and quantized"),
        TRIPLE: _("MedQuant: with the difference"),
        QUAD: _("MedQuant: with the difference and 3-D"),
    }
    icon = qt.QIcon(str(Path(__file__).parents[1] / "Resources" / "Icons" / "MedQuantSlicer.png"))
    for number, title in titles.items():
        action = button.menu().addAction(title)
        action.setData(number)
        action.setIcon(icon)  # Slicer's button shows that of the layout
