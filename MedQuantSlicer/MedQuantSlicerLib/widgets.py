"""Small pieces that the sections share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Action, Problem, Waiting


def show_action(button: Any, action: Action | None, *, text: bool = True) -> None:
    """Make a button what an action says."""
    if action is None:
        return
    if text and action.text and button.text != action.text:
        button.text = action.text
    button.enabled = action.enabled
    button.toolTip = action.tooltip
    style.mark(button, "primary", action.primary)


def show_text(label: Any, text: str) -> None:
    """Show a line, or no line at all."""
    if label.text != text:
        label.text = text
    label.setVisible(bool(text))


def row_height(widget: Any) -> int:
    """Of the rows of a list in a widget's font."""
    return widget.fontMetrics().height() + 5


def label(text: str = "", *, word_wrap: bool = False, **marks: bool) -> Any:
    """A label with marks of the style sheet: `label("8", figure=True)`."""
    made = qt.QLabel(text)
    made.setWordWrap(word_wrap)
    for name, value in marks.items():
        made.setProperty(name, value)
    return made


class Fold:
    """A line to click that shows or hides what is below it."""

    def __init__(self, button: Any, body: Any) -> None:
        self._button, self._body = button, body
        style.mark(button, "fold")
        button.toggled.connect(self.open)
        self.open(False)

    def open(self, opened: bool) -> None:
        """Show the body, or hide it."""
        self._body.setVisible(bool(opened))
        self._button.setArrowType(qt.Qt.DownArrow if opened else qt.Qt.RightArrow)


class Messages:
    """What a section has to say below its button: work that runs, a problem, good news."""

    def __init__(self, place: Any, open_log: Callable[[], None], dismiss: Callable[[], None]) -> None:
        self._place = place
        layout = place.layout()
        self.waiting = qt.QWidget()
        rows = qt.QVBoxLayout(self.waiting)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        self.bar = qt.QProgressBar()
        self.bar.setTextVisible(False)
        line = qt.QHBoxLayout()
        self.what, self.left = label(word_wrap=True), label(quiet=True)
        line.addWidget(self.what, 1)
        line.addWidget(self.left)
        rows.addWidget(self.bar)
        rows.addLayout(line)

        self.problem = qt.QFrame()
        self.problem.setProperty("problem", True)
        inside = qt.QVBoxLayout(self.problem)
        inside.setContentsMargins(10, 8, 8, 8)
        self.trouble = label(word_wrap=True)
        self.trouble.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        buttons = qt.QHBoxLayout()
        self.log, self.close = qt.QPushButton(_("Open log")), qt.QPushButton(_("Dismiss"))
        self.log.clicked.connect(lambda *_: open_log())
        self.close.clicked.connect(lambda *_: dismiss())
        buttons.addStretch(1)
        buttons.addWidget(self.log)
        buttons.addWidget(self.close)
        inside.addWidget(self.trouble)
        inside.addLayout(buttons)

        self.notice = label(word_wrap=True, quiet=True)
        self.notice.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        for widget in (self.waiting, self.problem, self.notice):
            layout.addWidget(widget)
        self.show(None, None, "")

    def show(self, waiting: Waiting | None, problem: Problem | None, notice: str) -> None:
        """Say this, and nothing else."""
        self.waiting.setVisible(waiting is not None)
        if waiting is not None:
            if waiting.fraction is None:
                self.bar.setRange(0, 0)
            else:
                self.bar.setRange(0, 1000)
                self.bar.setValue(round(1000 * waiting.fraction))
            self.what.text = waiting.text
            self.left.text = waiting.time_left
        self.problem.setVisible(problem is not None)
        if problem is not None:
            self.trouble.text = problem.text
            self.log.setVisible(bool(problem.log))
        show_text(self.notice, notice)
        self._place.setVisible(waiting is not None or problem is not None or bool(notice))
