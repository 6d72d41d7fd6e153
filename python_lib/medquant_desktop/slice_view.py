"""One slice through the scene: Slicer's own displayable managers, drawn into a widget."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import slicer
import vtk
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QFont, QPainter, QWheelEvent
from PySide6.QtWidgets import QApplication

from medquant_desktop import corner_text
from medquant_desktop.corner_text import Corners
from medquant_desktop.mrml_view import MrmlView

MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
)
ORIENTATIONS = ("Axial", "Coronal", "Sagittal")
BODY_ATTRIBUTE = "MedQuant.Body"
"""Of a volume: first and last voxel (i, j, k) of the body, as JSON. Views begin with it rather than with the air."""
AROUND = 1.08
MANY = 10
"""Slices of a jump with shift held."""
WHEEL_NOTCH = 120
SMALLER = 1.0
"""Points that the text in the corners is smaller than the window's."""


class SliceView(MrmlView):
    """A slice view with the tag of its slice node; `changed` is called whenever another plane is shown."""

    def __init__(self, tag: str, application_logic: Any) -> None:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        super().__init__(factory, MANAGERS, application_logic)
        self.changed: Callable[[], None] = lambda: None
        self.twin: SliceView | None = None
        """A view that often shows the same plane: then it lends its image, which is half the work of a picture."""
        self._turned = 0
        self._fitted: tuple[float, ...] = ()
        self._tags: list[tuple[Any, int]] = []
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        # The slice lies beneath whatever the managers draw: its actor comes first.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._image.SetVisibility(False)
        self.renderer.AddViewProp(self._image)
        self.prepare()

        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        self._application_logic = application_logic
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        # A node of this tag may have come with a scene; another one would not get into it.
        self.node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSliceNode") or self.logic.AddSliceNode(tag)
        self.logic.SetSliceNode(self.node)
        self.node.SetDefaultOrientation(ORIENTATIONS[0])
        self.node.SetOrientationToDefault()
        self.group.SetMRMLDisplayableNode(self.node)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.interactor.Initialize()
        self.manners = slicer.vtkMRMLSliceViewInteractorStyle()
        self.manners.SetSliceLogic(self.logic)
        self.manners.SetDisplayableManagers(self.group)
        self.manners.SetInteractor(self.interactor)
        self._observe(self.logic, self._image_changed)
        self._observe(self.node, self._plane_changed)

    @property
    def composite(self) -> Any:
        """The node that says which volumes are shown."""
        return self.logic.GetSliceCompositeNode()

    def show_volume(self, volume: Any) -> None:
        """Show a volume, in its own planes and as large as fits."""
        self.composite.SetBackgroundVolumeID(volume.GetID() if volume is not None else None)
        if volume is not None:
            self.fit()

    def fit(self) -> None:
        """Turn into the scan's planes and show the whole of it."""
        volume = self.volume()
        if volume is not None:
            self.node.SetOrientationToDefault()
            self.node.RotateToVolumePlane(volume)
            self.logic.FitSliceToBackground()
            self._fit_body(volume)
            self.logic.SnapSliceOffsetToIJK()
            self._fitted = self._view_of_node()

    def _fit_body(self, volume: Any) -> None:
        """Zoom to the body where it is known."""
        body = json.loads(volume.GetAttribute(BODY_ATTRIBUTE) or "null")
        width, height = self.node.GetDimensions()[:2]
        if not body or width < 2 or height < 2:
            return
        into_plane = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetSliceToRAS(), into_plane)
        to_world = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(to_world)
        transform = volume.GetParentTransformNode()
        if transform is not None and transform.IsTransformToWorldLinear():
            above = vtk.vtkMatrix4x4()
            transform.GetMatrixTransformToWorld(above)
            vtk.vtkMatrix4x4.Multiply4x4(above, to_world, to_world)
        vtk.vtkMatrix4x4.Multiply4x4(into_plane, to_world, into_plane)
        corners = [into_plane.MultiplyPoint([*corner, 1.0]) for corner in product(*zip(*body))]
        spans = [(min(c[axis] for c in corners), max(c[axis] for c in corners)) for axis in (0, 1)]
        mm = AROUND * max((spans[0][1] - spans[0][0]) / width, (spans[1][1] - spans[1][0]) / height)
        was = self.node.StartModify()
        self.node.SetFieldOfView(width * mm, height * mm, self.node.GetFieldOfView()[2])
        self.node.SetXYZOrigin(sum(spans[0]) / 2, sum(spans[1]) / 2, self.node.GetXYZOrigin()[2])
        self.node.EndModify(was)

    def set_orientation(self, name: str) -> None:
        """ "Axial", "Coronal" or "Sagittal", nearest to the scan's own planes, through the middle."""
        self.node.SetDefaultOrientation(name)
        self.node.SetOrientation(name)
        self.fit()

    def volume(self) -> Any:
        """The volume that is shown; None where there is none."""
        identifier = self.composite.GetBackgroundVolumeID()
        return slicer.mrmlScene.GetNodeByID(identifier) if identifier else None

    def step(self, slices: int) -> None:
        """Go so many slices on, within the scan; linked views follow."""
        place = self.place()
        if place is None:
            return
        _, (low, high), spacing = place
        offset = self.logic.GetSliceOffset() + slices * spacing
        self.go_to(min(high, max(low, offset)))

    def go_to(self, offset: float) -> None:
        """Show the plane at an offset in mm; linked views follow."""
        self.logic.StartSliceOffsetInteraction()
        self.logic.SetSliceOffset(offset)
        self.logic.SnapSliceOffsetToIJK()
        self.logic.EndSliceOffsetInteraction()

    def go_to_number(self, number: int) -> None:
        """Show slice `number`, from 0."""
        place = self.place()
        if place is not None:
            self.go_to(place[1][0] + number * place[2])

    def place(self) -> tuple[tuple[int, int], tuple[float, float], float] | None:
        """(slice from 0, count), (offset of the first, of the last slice), spacing in mm; None without a volume."""
        volume = self.volume()
        if volume is None or volume.GetImageData() is None:
            return None
        bounds, spacing = [0.0] * 6, self.logic.GetLowestVolumeSliceSpacing()[2]
        self.logic.GetLowestVolumeSliceBounds(bounds)
        low, high = bounds[4] + spacing / 2, bounds[5] - spacing / 2
        count = max(1, round((high - low) / spacing) + 1)
        number = min(count - 1, max(0, round((self.logic.GetSliceOffset() - low) / spacing)))
        return (number, count), (low, max(low, high)), spacing

    def corners(self) -> Corners:
        """What stands in the corners now."""
        place = self.place()
        if place is None:
            return Corners()
        (number, count), _, _ = place
        matrix = self.node.GetSliceToRAS()
        rows = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        normal = [row[2] for row in rows[:3]]
        axis = max(range(3), key=lambda which: abs(normal[which]))
        display = self.volume().GetDisplayNode()
        return Corners(
            orientation=self.node.GetDefaultOrientation(),
            number=number + 1,
            count=count,
            position_mm=rows[axis][3],
            axis=axis,
            level=display.GetLevel() if display else None,
            width=display.GetWindow() if display else None,
            edges=corner_text.edge_letters(rows),
            mm_per_pixel=self.node.GetFieldOfView()[0]
            / max(1, self.node.GetDimensions()[0])
            * self.devicePixelRatioF(),
        )

    def render_now(self) -> None:
        self._take_image()
        super().render_now()

    def overlay(self, painter: QPainter, area: QRectF) -> None:
        corners = self.corners()
        if corners.count:
            font = QFont(QApplication.font())
            font.setPointSizeF(font.pointSizeF() - SMALLER)
            corner_text.paint(painter, area, corners, font)

    def resized(self, width: int, height: int) -> None:
        """Whoever saw the whole scan sees the whole of it again; whoever had zoomed keeps the zoom."""
        whole = self._fitted == self._view_of_node()
        self.logic.ResizeSliceNode(width, height)
        if whole and self.volume() is not None:
            offset = self.logic.GetSliceOffset()
            self.fit()
            self.logic.SetSliceOffset(offset)
            self._fitted = self._view_of_node()

    def _view_of_node(self) -> tuple[float, ...]:
        """How large and where the plane is shown, within itself."""
        return (*self.node.GetFieldOfView()[:2], *self.node.GetXYZOrigin()[:2])

    def wheelEvent(self, event: QWheelEvent) -> None:
        modifiers = event.modifiers()
        if modifiers & Qt.KeyboardModifier.ControlModifier:
            self.place_mouse(event.position(), Qt.KeyboardModifier.ControlModifier)
            turned = event.angleDelta().y()
            self.interactor.InvokeEvent("MouseWheelForwardEvent" if turned > 0 else "MouseWheelBackwardEvent")
            return
        # Shift turns the wheel sideways on some systems.
        self._turned += event.angleDelta().y() or event.angleDelta().x()
        notches = int(self._turned / WHEEL_NOTCH)
        self._turned -= notches * WHEEL_NOTCH
        if notches:
            self.step(notches * (MANY if modifiers & Qt.KeyboardModifier.ShiftModifier else 1))

    def close_view(self) -> None:
        for what, tag in self._tags:
            what.RemoveObserver(tag)
        self.manners.SetInteractor(None)
        self._application_logic.GetSliceLogics().RemoveItem(self.logic)
        super().close_view()
        self.logic.SetMRMLScene(None)

    def _observe(self, what: Any, method: Callable[..., None]) -> None:
        self._tags.append((what, what.AddObserver(vtk.vtkCommand.ModifiedEvent, method)))

    def _image_changed(self, *_: object) -> None:
        self._take_image()
        self.request_render()

    def _take_image(self) -> None:
        lender = self.twin if self.twin is not None and self._scene_of_slice() == self.twin._scene_of_slice() else self
        connection = lender.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._image.SetVisibility(connection is not None)

    def _scene_of_slice(self) -> tuple[object, ...]:
        """All that the image of the slice depends on."""
        matrix, shown = self.node.GetXYToRAS(), self.composite
        return (
            *(matrix.GetElement(row, column) for row in range(4) for column in range(4)),
            *self.node.GetDimensions(),
            shown.GetBackgroundVolumeID(),
            shown.GetForegroundVolumeID(),
            shown.GetLabelVolumeID(),
            shown.GetForegroundOpacity(),
            shown.GetLabelOpacity(),
        )

    def _plane_changed(self, *_: object) -> None:
        self.changed()
        self.request_render()
