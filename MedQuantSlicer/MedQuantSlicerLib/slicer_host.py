"""3D Slicer as the application around the panel: its layout, its dialogs, its Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk

from MedQuantSlicerLib import mask_views, masks, scene
from MedQuantSlicerLib.host import Masks, Missing
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.scene_host import SceneHost
from MedQuantSlicerLib.slicer_packages import EnginePackages

PAIR, TRIPLE = 8251, 8252
"""Numbers of our own among the custom layouts; those below 100 are Slicer's."""
_VIEW = """
<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
  <property name="orientation" action="default">Axial</property>
  <property name="viewlabel" action="default">{label}</property>
  <property name="viewcolor" action="default">{color}</property>
</view></item>"""
_LEFT = _VIEW.format(tag=scene.FP32_VIEW, label="FP32", color="#4C9BE8")
_RIGHT = _VIEW.format(tag=scene.QUANTIZED_VIEW, label="Quantized", color="#F2A33A")
_THIRD = _VIEW.format(tag=scene.DIFFERENCE_VIEW, label="Difference", color="#9A9A9A")
LAYOUTS = {
    number: f'<layout type="horizontal" split="true">{views}</layout>'
    for number, views in ((PAIR, _LEFT + _RIGHT), (TRIPLE, _LEFT + _RIGHT + _THIRD))
}
VIEWS = {PAIR: (scene.FP32_VIEW, scene.QUANTIZED_VIEW)}
VIEWS[TRIPLE] = (*VIEWS[PAIR], scene.DIFFERENCE_VIEW)


class SlicerHost(SceneHost):
    """See `Host`. `requirements` is the path of the module's `requirements.txt`."""

    def __init__(self, parameters: Any, requirements: str) -> None:
        super().__init__(parameters)
        self._packages = EnginePackages(requirements)
        self._former_layout: int | None = None
        self._titles = ("", "")

    # -- views

    def show_pair(self, left_title: str, right_title: str) -> None:
        """See `Host`."""
        self._titles = (left_title, right_title)
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        if manager.layout not in LAYOUTS:
            self._former_layout = manager.layout
            self._show(PAIR)
        for tag, title in zip(VIEWS[TRIPLE], (left_title, right_title, _("Difference"))):
            if tag in VIEWS[manager.layout]:
                self._set_title(manager.sliceWidget(tag), title)

    def restore_layout(self) -> None:
        """See `Host`."""
        manager = slicer.app.layoutManager()
        if manager is not None and self._former_layout is not None and manager.layout in LAYOUTS:
            manager.setLayout(self._former_layout)
        self._former_layout = None

    def show_masks(self, kind: str, result: Masks, partial: bool) -> None:
        """See `Host`. The difference comes with a view of its own."""
        super().show_masks(kind, result, partial)
        if kind == masks.DIFFERENCE:
            self._widen(TRIPLE)

    def remove_masks(self, kind: str) -> None:
        """See `Host`."""
        super().remove_masks(kind)
        if kind == masks.DIFFERENCE:
            self._widen(PAIR)

    def start_box(self, from_segment: bool = False) -> None:
        """See `Host`."""
        self.show_pair(*self._titles)
        super().start_box(from_segment)

    def _widen(self, layout: int) -> None:
        """Two views or three, unless the user looks at something else."""
        manager = slicer.app.layoutManager()
        if manager is not None and manager.layout in LAYOUTS and manager.layout != layout:
            self._show(layout)
            self.show_pair(*self._titles)

    def _show(self, layout: int) -> None:
        """Lay the views out; all of them show the chosen scan and move together."""
        manager = slicer.app.layoutManager()
        node = manager.layoutLogic().GetLayoutNode()
        if not node.IsLayoutDescription(layout):
            node.AddLayoutDescription(layout, LAYOUTS[layout])
        manager.setLayout(layout)
        for tag in VIEWS[layout]:
            logic = manager.sliceWidget(tag).sliceLogic()
            composite = logic.GetSliceCompositeNode()
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            if self.node is not None:
                composite.SetBackgroundVolumeID(self.node.GetID())
            logic.FitSliceToAll()
        mask_views.keep_apart(self.node)

    @staticmethod
    def _set_title(widget: Any, title: str) -> None:
        if widget is None:
            return
        annotation = widget.sliceView().cornerAnnotation()
        annotation.SetText(vtk.vtkCornerAnnotation.UpperEdge, title)
        widget.sliceView().scheduleRender()

    # -- dialogs

    def confirm(self, text: str) -> bool:
        """See `Host`."""
        return bool(slicer.util.confirmYesNoDisplay(text, windowTitle="MedQuant"))

    def open_folder(self, path: str) -> None:
        """See `Host`."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

    # -- packages

    def missing(self) -> Missing | None:
        """See `Host`."""
        return self._packages.missing()

    def install(self, on_progress: Callable, on_done: Callable, on_error: Callable) -> None:
        """See `Host`."""
        self._packages.install(on_progress, on_done, on_error)

    def cancel_install(self) -> None:
        """See `Host`."""
        self._packages.cancel()

    def restarted(self) -> None:
        """See `Host`."""
        logging.getLogger("medquant.panel").info("the engine was started again")
