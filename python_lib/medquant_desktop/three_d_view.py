"""The 3-D view of the masks' surfaces."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QWheelEvent

from medquant_desktop.mrml_view import MrmlView

MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
)
"""Neither segmentations nor boxes: the surface of the results is a model of its own, and nothing lies before it."""
NEAR = 0.94
"""How much of the view the surface fills."""
QUIET = "#98A3B0"
GROUND = (0.075, 0.085, 0.1)


class ThreeDView(MrmlView):
    """Turn by left drag, zoom by wheel or right drag, move by middle drag."""

    def __init__(self, tag: str, application_logic: Any) -> None:
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        super().__init__(factory, MANAGERS, application_logic)
        self.words = ""
        self._fitted: tuple = ()
        """How the camera stood when it was fitted last: where it stands otherwise, the user has turned or zoomed."""
        self.prepare()
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        self._application_logic = application_logic
        application_logic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLViewNode") or self.logic.AddViewNode(tag)
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.node.SetBackgroundColor(*GROUND)
        self.node.SetBackgroundColor2(*GROUND)
        self.group.SetMRMLDisplayableNode(self.node)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.interactor.Initialize()
        self.manners = slicer.vtkMRMLThreeDViewInteractorStyle()
        self.manners.SetDisplayableManagers(self.group)
        self.manners.SetInteractor(self.interactor)

    def fit(self) -> None:
        """Look at everything from the patient's front."""
        manager = self.group.GetDisplayableManagerByClassName("vtkMRMLCameraDisplayableManager")
        camera = manager.GetCameraNode() if manager is not None else None
        if camera is not None:
            camera.RotateTo(slicer.vtkMRMLCameraNode.Anterior)
        self.renderer.ResetCameraScreenSpace(NEAR)
        self._fitted = self._stand()
        self.request_render()

    def keep_fit(self) -> None:
        """Look at everything again after something has changed, unless the user has turned or zoomed since."""
        if self._fitted and self._fitted == self._stand():
            self.fit()

    def resized(self, width: int, height: int) -> None:
        self.keep_fit()

    def _stand(self) -> tuple:
        """Where the camera is and looks, and how wide."""
        camera = self.renderer.GetActiveCamera()
        places = camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp()
        return (*places, camera.GetViewAngle(), camera.GetParallelScale())

    def say(self, words: str) -> None:
        """What stands in the middle while there is nothing to see."""
        self.words = words
        self.update()

    def overlay(self, painter: QPainter, area: QRectF) -> None:
        painter.setPen(QColor(QUIET))
        painter.drawText(area, Qt.AlignmentFlag.AlignCenter, self.words)

    def close_view(self) -> None:
        """Let go of the scene and of the graphics memory."""
        self.manners.SetInteractor(None)
        self._application_logic.GetViewLogics().RemoveItem(self.logic)
        super().close_view()
        self.logic.SetMRMLScene(None)

    def wheelEvent(self, event: QWheelEvent) -> None:
        self.place_mouse(event.position(), event.modifiers())
        forward = event.angleDelta().y() > 0
        self.interactor.InvokeEvent("MouseWheelForwardEvent" if forward else "MouseWheelBackwardEvent")
