"""3D Slicer as the application around the panel: its layout, its dialogs, its Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk

from MedQuantSlicerLib import masks, scene
from MedQuantSlicerLib.host import Missing
from MedQuantSlicerLib.scene_host import SceneHost
from MedQuantSlicerLib.slicer_packages import EnginePackages

LAYOUT = 8251
"""A number of our own among the custom layouts; those below 100 are Slicer's."""
_VIEW = """
<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
  <property name="orientation" action="default">Axial</property>
  <property name="viewlabel" action="default">{label}</property>
  <property name="viewcolor" action="default">{color}</property>
</view></item>"""
LAYOUT_XML = (
    '<layout type="horizontal" split="true">'
    + _VIEW.format(tag=scene.FP32_VIEW, label="FP32", color="#4C9BE8")
    + _VIEW.format(tag=scene.QUANTIZED_VIEW, label="Quantized", color="#F2A33A")
    + "</layout>"
)
VIEWS = (scene.FP32_VIEW, scene.QUANTIZED_VIEW)


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
        node = manager.layoutLogic().GetLayoutNode()
        if not node.IsLayoutDescription(LAYOUT):
            node.AddLayoutDescription(LAYOUT, LAYOUT_XML)
        if manager.layout != LAYOUT:
            self._former_layout = manager.layout
            manager.setLayout(LAYOUT)
            self._link()
        for tag, title in zip(VIEWS, (left_title, right_title)):
            self._set_title(manager.sliceWidget(tag), title)

    def restore_layout(self) -> None:
        """See `Host`."""
        manager = slicer.app.layoutManager()
        if manager is not None and self._former_layout is not None and manager.layout == LAYOUT:
            manager.setLayout(self._former_layout)
        self._former_layout = None

    def start_box(self, from_segment: bool = False) -> None:
        """See `Host`."""
        self.show_pair(*self._titles)
        super().start_box(from_segment)

    def _link(self) -> None:
        """Both views show the chosen scan and move together."""
        manager = slicer.app.layoutManager()
        for tag in VIEWS:
            logic = manager.sliceWidget(tag).sliceLogic()
            composite = logic.GetSliceCompositeNode()
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            if self.node is not None:
                composite.SetBackgroundVolumeID(self.node.GetID())
            logic.FitSliceToAll()
        for kind in (masks.FP32, masks.QUANTIZED, masks.DIFFERENCE):
            node = masks.segmentation_of(kind, self.node) if self.node is not None else None
            if node is not None:
                masks.confine(kind, node)

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
