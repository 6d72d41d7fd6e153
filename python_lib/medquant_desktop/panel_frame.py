"""The left side of the window: the panel of the Slicer module, unchanged, and its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from PySide6.QtCore import QEvent, QObject, Qt, QTimer
from PySide6.QtWidgets import QAbstractSlider, QAbstractSpinBox, QComboBox, QScrollArea, QScrollBar, QVBoxLayout

from medquant_desktop.linked_views import LinkedViews
from medquant_desktop.slicer_compat import bootstrap

LEAST, USUAL = 23.4, 25.6
"""Width in heights of a line of text."""
LOOK_MS = 200


class PanelFrame(QScrollArea):
    """Holds the panel; it scrolls down, never sideways.

    `open_sample()` is what the panel's button does. `changed()` is called after the choice of a scan has changed,
    `shown(shown)` when the panel shows something else.
    """

    def __init__(self, views: LinkedViews, open_sample: Callable[[], None]) -> None:
        super().__init__()
        self.changed: Callable[[], None] = lambda: None
        self.shown: Callable[[Any], None] = lambda shown: None
        self.setObjectName("panelFrame")
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inside = slicer.qMRMLWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(8, 6, 8, 6)
        inside.setMRMLScene(slicer.mrmlScene)
        self.setWidget(inside)
        self.module = _module_class(views, open_sample)(inside)
        self.module.setup()
        self.module.enter()
        # The welcome beside it says the same, larger.
        self.module.ui.sampleButton.hide()
        # The window's last line says it, too.
        self.module.ui.disclaimerLabel.hide()
        self._still = _Still(self)
        self._still.keep()
        self.dress()
        # The node of the choices is one of a kind: it outlives every scene.
        self._node = self.module.parameters.parameterNode
        self._tag = self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.changed())
        self._seen: Any = None
        self._look = QTimer(self)
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self._look_at_panel)
        self._look.start()

    @property
    def presenter(self) -> Any:
        """The panel's mind."""
        return self.module.panel.presenter

    @property
    def volume(self) -> Any:
        """The scan that is chosen in the panel."""
        return self.module.parameters.inputVolume if self.module.parameters is not None else None

    def usual_width(self) -> int:
        """Pixels, with the text as large as it is."""
        return round(USUAL * self.fontMetrics().height())

    def dress(self) -> None:
        """Follow another size of the text."""
        from MedQuantSlicerLib import style

        self.setMinimumWidth(round(LEAST * self.fontMetrics().height()))
        style.apply(self.module.root)
        self.module.panel.show(self.presenter.shown)

    def choose(self, volume: Any) -> None:
        """Choose a scan in the panel."""
        self.module.parameters.inputVolume = volume

    def choose_reference(self, segmentation: Any) -> None:
        """Choose the reference in the panel."""
        self.module.parameters.referenceSegmentation = segmentation

    def close_panel(self) -> None:
        """End the engine."""
        self._look.stop()
        self._node.RemoveObserver(self._tag)
        self.module.exit()
        self.module.cleanup()

    def _look_at_panel(self) -> None:
        shown = self.presenter.shown
        if shown is not self._seen:
            self._seen = shown
            self.shown(shown)


class _Still(QObject):
    """Who scrolls the panel scrolls it: lists, numbers and sliders under the pointer stay as they were chosen."""

    def __init__(self, frame: PanelFrame) -> None:
        super().__init__(frame)
        self._frame = frame

    def keep(self) -> None:
        """For everything in the panel that the wheel would change."""
        for kind in (QComboBox, QAbstractSpinBox, QAbstractSlider):
            for widget in self._frame.widget().findChildren(kind):
                if not isinstance(widget, QScrollBar):
                    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                    widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Wheel and not watched.hasFocus():
            event.ignore()
            return True
        return False


def _module_class(views: LinkedViews, open_sample: Callable[[], None]) -> type:
    bootstrap.add_module_path()
    from MedQuantSlicer import MedQuantSlicerWidget

    from medquant_desktop.window_host import WindowHost

    class Module(MedQuantSlicerWidget):
        """The module's own widget, with the window around it."""

        def make_host(self, parameters: Any) -> WindowHost:
            return WindowHost(parameters, views)

        def open_sample(self) -> None:
            open_sample()

    return Module
