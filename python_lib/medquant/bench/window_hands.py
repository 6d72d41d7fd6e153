"""Hands at mouse and keys of the window: for the benchmark, and for the tests that use it as people do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QMouseEvent, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QDialogButtonBox, QFileDialog, QLineEdit

PATIENCE = 60.0
TRIES = 20
"""A dialog is answered so often, as it may not be ready at first."""
LOOK = 0.15
"""Before a button is pressed it is looked at: the panel may still fold and scroll."""
TURN = 120
"""Of the wheel: one notch."""
NONE = Qt.KeyboardModifier.NoModifier
LEFT = Qt.MouseButton.LeftButton


class NotReached(Exception):
    """What the hand wanted to do could not be done by anybody."""


class Hands:
    """Lets the application run, and does what a hand at mouse and keys does."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.clicks = 0
        """How often a button of the mouse was clicked."""

    # -- time

    def wait(self, seconds: float = 0.1) -> None:
        """Let everything run for a while. The sleep lets other threads run, too."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.application.processEvents()
            time.sleep(0.003)

    def until(self, so: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Let everything run until it is so. Raises `NotReached`."""
        end = time.monotonic() + seconds
        while not so():
            if time.monotonic() > end:
                raise NotReached(f"it did not come to that in {seconds:.0f} s")
            self.application.processEvents()
            time.sleep(0.003)

    # -- mouse

    def turn(self, widget: Any, notches: int, modifier: str = "NoModifier") -> None:
        """Turn the wheel over the middle of a widget."""
        middle = QPointF(widget.width / 2, widget.height / 2)
        held, button, phase = getattr(Qt.KeyboardModifier, modifier), Qt.MouseButton.NoButton, Qt.ScrollPhase
        for _ in range(abs(notches)):
            turned = QPoint(0, TURN if notches > 0 else -TURN)
            event = QWheelEvent(middle, middle, QPoint(), turned, button, held, phase.NoScrollPhase, False)
            self.application.sendEvent(widget, event)

    def wheel(self, widget: Any, notches: int, modifier: str = "NoModifier") -> None:
        """Turn the wheel, and let what follows be drawn."""
        self.turn(widget, notches, modifier)
        self.wait(0.05)

    def drag(self, view: Any, start: tuple, end: tuple, button: str = "LeftButton", modifier: str = "NoModifier"):
        """Drag from one place to another, both as parts of the view's width and height."""
        pressed, held = getattr(Qt.MouseButton, button), getattr(Qt.KeyboardModifier, modifier)
        places = [(start[0] + (end[0] - start[0]) * t / 5, start[1] + (end[1] - start[1]) * t / 5) for t in range(6)]
        points = [QPoint(round(x * view.width), round(y * view.height)) for x, y in places]
        QTest.mouseMove(view, points[0])
        QTest.mousePress(view, pressed, held, points[0])
        for point in points[1:]:
            at = QPointF(point)
            event = QMouseEvent(QMouseEvent.Type.MouseMove, at, view.mapToGlobal(at), pressed, pressed, held)
            self.application.sendEvent(view, event)
        QTest.mouseRelease(view, pressed, held, points[-1])
        self.wait(0.05)

    def click(self, widget: Any, x: float = 0.5, y: float = 0.5) -> None:
        """Click at a place given as parts of the widget's width and height."""
        self.click_at(
            widget,
            QPoint(min(widget.width - 1, round(x * widget.width)), min(widget.height - 1, round(y * widget.height))),
        )

    def click_at(self, widget: Any, at: QPoint) -> None:
        """Click at a place of a widget. Raises `NotReached` where another widget lies over it."""
        window = widget.window()
        hit = window.childAt(widget.mapTo(window, at)) if widget is not window else widget
        if hit is not widget and (hit is None or not widget.isAncestorOf(hit)):
            raise NotReached(f"{widget.objectName or type(widget).__name__} is covered by {hit}")
        QTest.mouseMove(widget, at)
        self.wait(0.02)
        QTest.mouseClick(widget, LEFT, NONE, at)
        self.clicks += 1
        self.wait(0.05)

    def push(self, button: Any, x: float = 0.5) -> None:
        """Click on a button, wherever the panel has scrolled to. Raises `NotReached` where nobody could press it."""
        self.wait(LOOK)
        self.reach(button)
        if not button.isVisible() or not button.isEnabled():
            raise NotReached(f"{button.objectName} cannot be pressed: {button.toolTip}")
        self.click(button, x)

    def unfold(self, section: Any) -> None:
        """Open a section of the panel by its title."""
        if section.collapsed:
            self.reach(section)
            self.click_at(section, QPoint(section.width // 2, 8))

    def reach(self, widget: Any) -> None:
        """Turn the wheel over the panel until a widget is in sight."""
        area = widget.parent()
        while area is not None and not hasattr(area, "ensureWidgetVisible"):
            area = area.parent()
        if area is None:
            return
        viewport = area.viewport()
        for _ in range(200):
            top = widget.mapTo(viewport, QPoint(0, 0)).y()
            if top >= 0 and top + min(widget.height, viewport.height) <= viewport.height:
                return
            before = area.verticalScrollBar().value
            self.turn(viewport, 1 if top < 0 else -1)
            self.wait(0.01)
            if area.verticalScrollBar().value == before:
                return

    def drop(self, window: Any, *paths: Any) -> bool:
        """Drag files over the window and let them go; whether they were taken."""
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        enter = QDragEnterEvent(QPoint(600, 400), Qt.DropAction.CopyAction, mime, LEFT, NONE)
        self.application.sendEvent(window, enter)
        if enter.isAccepted():
            dropped = QDropEvent(QPointF(600, 400), Qt.DropAction.CopyAction, mime, LEFT, NONE)
            self.application.sendEvent(window, dropped)
        return enter.isAccepted()

    # -- keys

    def press(self, widget: Any, key: str, modifier: str = "NoModifier") -> None:
        """Press a key, by its name in Qt."""
        widget.window().activateWindow()  # off screen nobody gives the keys back after a dialog
        for _ in range(40):  # on a busy machine that takes its time
            self.wait(0.05)
            if self.application.focusWindow() is widget.window().windowHandle():
                break
        QTest.keyClick(widget, getattr(Qt.Key, f"Key_{key}"), getattr(Qt.KeyboardModifier, modifier))
        self.wait(0.05)

    def write(self, field: Any, text: str) -> None:
        """Write a text into a field in place of what stands there."""
        self.click(field)
        QTest.keyClick(field, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        QTest.keyClicks(field, text)
        self.wait(0.05)

    def answering(self, path: Any, does: Callable[[], None]) -> None:
        """Do what opens a file dialog, write a path into it, and press its button. Raises `NotReached`."""
        seen: list[str] = []
        timer = QTimer()

        def look() -> None:
            dialog = self.application.activeModalWidget()
            if dialog is None:
                return
            seen.append(f"{type(dialog).__name__} {dialog.windowTitle}")
            if not isinstance(dialog, QFileDialog) or len(seen) > TRIES:
                seen.append("")
                dialog.reject()
                return
            field = dialog.findChild(QLineEdit, "fileNameEdit")
            field.clear()
            field.insert(str(path))  # as from the clipboard: the list of completions would take single keys
            box = dialog.findChild(QDialogButtonBox)
            accept = QDialogButtonBox.ButtonRole.AcceptRole
            QTest.mouseClick(next(one for one in box.buttons() if box.buttonRole(one) == accept), LEFT)

        timer.setInterval(100)
        timer.timeout.connect(look)
        timer.start()
        does()
        timer.stop()
        if not seen or not seen[-1]:
            raise NotReached(f"no file dialog was answered, but {seen[:1]} came")
