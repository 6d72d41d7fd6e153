"""The views beside the panel: FP32 and quantized, linked, and beneath them on demand the difference and 3-D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
from PySide6.QtCore import QEvent, QObject, Qt, QTimer
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from medquant.memory import trim_heap
from medquant_desktop.pane import DIFFERENCE, LEFT, NAMES, RIGHT, THREE_D, Pane
from medquant_desktop.probe import describe_place
from medquant_desktop.slice_slider import HEIGHT, SliceSlider
from medquant_desktop.slice_view import ORIENTATIONS, SliceView
from medquant_desktop.surfaces import Surfaces
from medquant_desktop.three_d_view import ThreeDView

SETTLED_MS = 400
SHOWN = "MedQuant.Shown"
"""Attribute of the nodes of optional views that are asked for: it is saved with the scene."""
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class LinkedViews(QWidget):
    """One large view at first; two linked ones once there is something to compare.

    `told(text)` is called with what lies under the mouse, `rearranged()` after other views are shown.
    """

    def __init__(self, application_logic: Any) -> None:
        super().__init__()
        self.told: Callable[[str], None] = lambda text: None
        self.rearranged: Callable[[], None] = lambda: None
        self._logic = application_logic
        self.paired = False
        self.alone: str | None = None
        """The tag of the pane that the user made large."""
        self.flipped = False
        self._shown: set[str] = set()
        self.orientation = ORIENTATIONS[0]
        self.volume: Any = None
        self.panes: dict[str, Pane] = {}
        # Views that became smaller have freed pictures of the whole window.
        self._settled = QTimer(self)
        self._settled.setSingleShot(True)
        self._settled.setInterval(SETTLED_MS)
        self._settled.timeout.connect(trim_heap)
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(2)
        self.surfaces = Surfaces()
        self.slider = SliceSlider()
        self.slider.chosen = lambda number: self.left.go_to_number(number)
        self._number = QLabel()
        self._number.setProperty("role", "number")
        self._number.setMinimumWidth(64)
        self._number.setFixedHeight(HEIGHT)
        self._number.setAlignment(Qt.AlignmentFlag.AlignBottom)
        below = QHBoxLayout()
        below.setContentsMargins(10, 3, 10, 3)
        below.setSpacing(10)
        below.addWidget(self._number)
        below.addWidget(self.slider, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(self._grid, 1)
        column.addLayout(below)
        for tag in (LEFT, RIGHT):
            self._make(tag)
        self.left.changed = self._moved
        self._watch_mouse()
        self._arrange()

    @property
    def left(self) -> SliceView:
        """The FP32 view, which is always there."""
        return self.panes[LEFT].view

    @property
    def right(self) -> SliceView:
        """The quantized view."""
        return self.panes[RIGHT].view

    def slice_views(self) -> list[SliceView]:
        """All slice views that were made."""
        return [pane.view for pane in self.panes.values() if isinstance(pane.view, SliceView)]

    # -- what is shown

    def show_volume(self, volume: Any) -> None:
        """Show a scan in every slice view; None for none."""
        self.volume = volume
        self.slider.show_profile(())
        for view in self.slice_views():
            view.show_volume(volume)
        self.show_surface()
        self._moved()

    def set_titles(self, left: str, right: str) -> None:
        """What stands over the two views; empty: their usual titles."""
        self.panes[LEFT].set_title(left or NAMES[LEFT])
        self.panes[RIGHT].set_title(right or NAMES[RIGHT])

    def show_pair(self) -> None:
        """Two views side by side."""
        self._turn(paired=True)

    def show_single(self) -> None:
        """One large view, as before a comparison."""
        self.flipped = False
        self._turn(paired=False)

    def is_shown(self, tag: str) -> bool:
        """Whether one of the optional views is asked for."""
        return tag in self._shown

    def show_optional(self, tag: str, shown: bool) -> None:
        """Show or hide the difference or 3-D."""
        if shown:
            self._make(tag)
            self._shown.add(tag)
            if tag == THREE_D:
                self.show_surface()
        else:
            self._shown.discard(tag)
        if tag in self.panes:
            self.panes[tag].view.node.SetAttribute(SHOWN, "1" if shown else None)
        self._arrange()

    def was_shown(self, tag: str) -> bool:
        """Whether an optional view was asked for when the scene was saved."""
        node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLViewNode" if tag == THREE_D else "vtkMRMLSliceNode")
        return node is not None and node.GetAttribute(SHOWN) is not None

    def flip(self) -> None:
        """FP32 and quantized change places: what differs flickers."""
        if not self.paired:
            return
        if self.alone in (LEFT, RIGHT):
            self.alone = RIGHT if self.alone == LEFT else LEFT
        else:
            self.flipped = not self.flipped
        self._arrange()

    def enlarge(self, tag: str) -> None:
        """One pane over the whole area, or back."""
        self.alone = None if self.alone == tag else tag
        self._arrange()

    def _turn(self, paired: bool) -> None:
        if paired != self.paired:
            self.paired, self.alone = paired, None
            self._arrange()

    def _make(self, tag: str) -> None:
        if tag in self.panes:
            return
        if tag == THREE_D:
            view: Any = ThreeDView(tag, self._logic)
        else:
            view = SliceView(tag, self._logic)
            view.composite.SetLinkedControl(True)
            view.composite.SetHotLinkedControl(True)
            view.twin = self.left if tag != LEFT else None
        view.setAccessibleName(f"{NAMES[tag]} view")
        pane = Pane(tag, view)
        pane.setParent(self)  # without one it would be a window of its own until it is laid out
        pane.strip.installEventFilter(self)
        pane.setVisible(False)
        self.panes[tag] = pane
        if isinstance(view, SliceView) and tag not in (LEFT, RIGHT) and self.volume is not None:
            view.node.SetDefaultOrientation(self.orientation)
            view.show_volume(self.volume)
            view.go_to(self.left.logic.GetSliceOffset())

    def _arrange(self) -> None:
        """Put the panes that are shown into the grid."""
        upper = [LEFT, RIGHT] if self.paired else [LEFT]
        lower = [tag for tag in (DIFFERENCE, THREE_D) if tag in self._shown]
        if self.flipped:
            upper.reverse()
        if self.alone is not None:
            upper, lower = [self.alone], []
        for pane in self.panes.values():
            self._grid.removeWidget(pane)
            pane.setVisible(pane.tag in upper or pane.tag in lower)
        for row, tags in enumerate((upper, lower)):
            for column, tag in enumerate(tags):
                self._grid.addWidget(self.panes[tag], row, column, 1, 2 if len(tags) == 1 else 1)
            self._grid.setRowStretch(row, 1 if tags else 0)
        self._grid.setColumnStretch(0, 1)
        self._grid.setColumnStretch(1, 1)
        self.panes[LEFT].strip.setVisible(self.paired)
        self._settled.start()
        self.rearranged()

    def show_surface(self) -> None:
        """Show the surface of the scan's masks as they are now, where there is a view for it."""
        if THREE_D not in self._shown:
            return
        from MedQuantSlicerLib import masks
        from MedQuantSlicerLib.host import FP32, QUANTIZED

        view = self.panes[THREE_D].view
        pair = [self.volume and masks.segmentation_of(kind, self.volume) for kind in (FP32, QUANTIZED)]
        if not any(pair):
            self.surfaces.remove()
            view.say("Segment first: the surface of the masks appears here.")
            return
        if not self.surfaces.shown:
            view.say(f"Making the surface{ELLIPSIS}")
        self.surfaces.view = view.node.GetID()
        self.surfaces.make(*pair, self._surface_made)

    def _surface_made(self) -> None:
        view = self.panes[THREE_D].view
        if view.words:
            view.say("")
            view.fit()
        view.keep_fit()
        view.request_render()

    # -- where the views are

    def step(self, slices: int) -> None:
        """So many slices on."""
        self.left.step(slices)

    def set_orientation(self, name: str) -> None:
        """Axial, coronal or sagittal, in every view."""
        self.orientation = name
        for view in self.slice_views():
            view.set_orientation(name)
        self._moved()
        self.rearranged()

    def fit(self) -> None:
        """The whole scan in every view, at the slice that is shown."""
        offset = self.left.logic.GetSliceOffset()
        for view in self.slice_views():
            view.fit()
            view.logic.SetSliceOffset(offset)
        if THREE_D in self.panes:
            self.panes[THREE_D].view.fit()

    def set_linked(self, linked: bool) -> None:
        """Whether the views move together."""
        for view in self.slice_views():
            view.composite.SetLinkedControl(linked)
            view.composite.SetHotLinkedControl(linked)

    def set_crosshair(self, shown: bool) -> None:
        """Whether the crosshair is drawn."""
        node = _crosshair()
        node.SetCrosshairMode(node.ShowBasic if shown else node.NoCrosshair)

    def jump_to(self, ras: Sequence[float]) -> None:
        """Show the slices through a place in RAS mm."""
        for view in self.slice_views():
            view.node.JumpSliceByOffsetting(*ras)

    def show_differences(self, profile: Sequence[float]) -> None:
        """How much the masks differ in each slice, over the slider."""
        self.slider.show_profile(profile)

    def request_render(self) -> None:
        """Draw all views anew soon."""
        for pane in self.panes.values():
            pane.view.request_render()

    def close_views(self) -> None:
        """Let go of the scene."""
        if (node := _crosshair()) is not None:
            node.RemoveObserver(self._crosshair_tag)
        self.surfaces.close()
        for pane in self.panes.values():
            pane.view.close_view()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.MouseButtonDblClick:
            for pane in self.panes.values():
                if watched is pane.strip:
                    self.enlarge(pane.tag)
                    return True
        return False

    def _moved(self) -> None:
        place = self.left.place()
        number, count = place[0] if place is not None else (0, 0)
        self.slider.show_place(number, count)
        self._number.setText(f"{number + 1} / {count}" if count else "")

    def _watch_mouse(self) -> None:
        node = _crosshair()
        self._crosshair_tag = node.AddObserver(node.CursorPositionModifiedEvent, lambda *_: self._probe())

    def _probe(self) -> None:
        ras = [0.0, 0.0, 0.0]
        inside = _crosshair().GetCursorPositionRAS(ras)
        self.told(describe_place(self.volume, ras) if inside and self.volume is not None else "")


def _crosshair() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
