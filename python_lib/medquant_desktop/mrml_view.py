"""An MRML view in a widget: VTK draws off screen, Qt shows the picture and passes its events on.

Nothing but a picture crosses the border, so the view needs neither a window of VTK's own nor a display.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk
from PySide6.QtCore import QPointF, QRectF, Qt, QTimer
from PySide6.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QWidget
from shiboken6 import isValid
from vtk.util.numpy_support import vtk_to_numpy

CURSORS = {
    vtk.VTK_CURSOR_HAND: Qt.CursorShape.OpenHandCursor,
    vtk.VTK_CURSOR_SIZEALL: Qt.CursorShape.SizeAllCursor,
    vtk.VTK_CURSOR_SIZENS: Qt.CursorShape.SizeVerCursor,
    vtk.VTK_CURSOR_SIZEWE: Qt.CursorShape.SizeHorCursor,
    vtk.VTK_CURSOR_SIZENE: Qt.CursorShape.SizeBDiagCursor,
    vtk.VTK_CURSOR_SIZESW: Qt.CursorShape.SizeBDiagCursor,
    vtk.VTK_CURSOR_SIZENW: Qt.CursorShape.SizeFDiagCursor,
    vtk.VTK_CURSOR_SIZESE: Qt.CursorShape.SizeFDiagCursor,
    vtk.VTK_CURSOR_CROSSHAIR: Qt.CursorShape.CrossCursor,
}
BUTTONS = {
    Qt.MouseButton.LeftButton: "LeftButton",
    Qt.MouseButton.MiddleButton: "MiddleButton",
    Qt.MouseButton.RightButton: "RightButton",
}


class MrmlView(QWidget):
    """What slice views and the 3-D view have in common.

    `factory` makes the displayable managers named in `managers`; whatever they change asks for one new picture, which
    is drawn once Qt has nothing more urgent to do.
    """

    def __init__(self, factory: vtk.vtkObject, managers: Sequence[str], application_logic: vtk.vtkObject) -> None:
        super().__init__()
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMinimumSize(120, 120)
        self.pictures = 0
        self._picture: QImage | None = None
        self._pixels = vtk.vtkUnsignedCharArray()
        self._size = (0, 0)
        self._due = QTimer(self)
        self._due.setSingleShot(True)
        self._due.setInterval(0)
        self._due.timeout.connect(self.render_now)

        self.renderer = vtk.vtkRenderer()
        self.render_window = vtk.vtkRenderWindow()
        self.render_window.SetOffScreenRendering(True)
        self.render_window.SetMultiSamples(0)
        self.render_window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.render_window)

        factory.SetMRMLApplicationLogic(application_logic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self._update_tag = self.group.AddObserver(vtk.vtkCommand.UpdateEvent, self._on_update)
        self._factory = factory

    def prepare(self) -> None:
        """Make the managers. Whatever must lie beneath what they draw is added to `renderer` before."""
        self.group.Initialize(self._factory, self.renderer)

    def request_render(self) -> None:
        """Draw a new picture soon, once for however many requests."""
        # The scene may ask once more while the window goes.
        if isValid(self._due) and not self._due.isActive():
            self._due.start()

    def render_now(self) -> None:
        """Draw a new picture."""
        self._due.stop()
        width, height = self._size
        if width < 2 or height < 2 or not self.isVisible():
            return
        self.render_window.Render()
        self.render_window.GetRGBACharPixelData(0, 0, width - 1, height - 1, 0, self._pixels)
        rows = vtk_to_numpy(self._pixels).reshape(height, width, 4)
        self._picture = QImage(
            np.ascontiguousarray(rows[::-1]).data, width, height, QImage.Format.Format_RGBX8888
        ).copy()
        self.pictures += 1
        self.update()

    def overlay(self, painter: QPainter, area: QRectF) -> None:
        """Draw over the picture, in Qt's coordinates."""

    def resized(self, width: int, height: int) -> None:
        """The picture has another size, in pixels of the screen."""

    def close_view(self) -> None:
        """Let go of the scene and of the graphics memory."""
        self._due.stop()
        self.group.RemoveObserver(self._update_tag)
        self.group.SetMRMLDisplayableNode(None)
        self.render_window.Finalize()

    def _on_update(self, *_: object) -> None:
        self.request_render()

    # -- Qt's events

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        area = QRectF(QPointF(0, 0), self._area)
        if self._picture is None:
            painter.fillRect(area, QColor("black"))
        else:
            painter.drawImage(area, self._picture)
        self.overlay(painter, area)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._area = event.size().toSizeF()
        ratio = self.devicePixelRatioF()
        self._size = (max(1, round(event.size().width() * ratio)), max(1, round(event.size().height() * ratio)))
        self.render_window.SetSize(*self._size)
        self.interactor.SetSize(*self._size)
        self.resized(*self._size)
        self.request_render()

    def showEvent(self, event: object) -> None:
        self.request_render()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._mouse(event, "Press")

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._mouse(event, "Release")

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        # A double click of VTK stands beside the second press, as in Slicer.
        self._mouse(event, "DoubleClick")

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.place_mouse(event.position(), event.modifiers())
        self.interactor.InvokeEvent("MouseMoveEvent")
        self._follow_cursor()

    def enterEvent(self, event: object) -> None:
        self.interactor.InvokeEvent("EnterEvent")

    def leaveEvent(self, event: object) -> None:
        self.interactor.InvokeEvent("LeaveEvent")

    def keyPressEvent(self, event: QKeyEvent) -> None:
        event.ignore()  # keys are the window's shortcuts

    def place_mouse(self, position: QPointF, modifiers: Qt.KeyboardModifier) -> None:
        """Tell VTK where the mouse is and which keys are held."""
        ratio = self.devicePixelRatioF()
        self.interactor.SetEventInformationFlipY(
            round(position.x() * ratio),
            round(position.y() * ratio),
            int(bool(modifiers & Qt.KeyboardModifier.ControlModifier)),
            int(bool(modifiers & Qt.KeyboardModifier.ShiftModifier)),
        )
        self.interactor.SetAltKey(int(bool(modifiers & Qt.KeyboardModifier.AltModifier)))

    def _mouse(self, event: QMouseEvent, what: str) -> None:
        name = BUTTONS.get(event.button())
        if name is None:
            return
        self.place_mouse(event.position(), event.modifiers())
        self.interactor.InvokeEvent(f"{name}{what}Event")
        self._follow_cursor()

    def _follow_cursor(self) -> None:
        self.setCursor(CURSORS.get(self.render_window.GetCurrentCursor(), Qt.CursorShape.ArrowCursor))
