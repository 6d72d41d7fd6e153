"""A strip above the views: what is being read, or what went wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QWidget

PATIENCE_MS = 200
"""What takes less is over before anybody could read about it."""
READING_MS = 10_000
"""Good news goes by itself after that long."""


class Notice(QWidget):
    """Shows one thing at a time; hidden while there is nothing to say."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("notice")
        self._pressed: Callable[[], None] = lambda: None
        self._text, self._bar, self._button = QLabel(), QProgressBar(), QPushButton()
        self._text.setObjectName("noticeText")
        self._text.setWordWrap(True)
        self._text.setTextFormat(Qt.TextFormat.PlainText)
        self._bar.setRange(0, 0)
        self._bar.setTextVisible(False)
        self._bar.setFixedWidth(140)
        self._button.setObjectName("noticeButton")
        self._button.clicked.connect(lambda *_: self._pressed())
        row = QHBoxLayout(self)
        row.setContentsMargins(10, 7, 10, 7)
        row.setSpacing(10)
        row.addWidget(self._text, 1)
        row.addWidget(self._bar)
        row.addWidget(self._button)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(PATIENCE_MS)
        self._later.timeout.connect(self.show)
        self._fade = QTimer(self)
        self._fade.setSingleShot(True)
        self._fade.setInterval(READING_MS)
        self._fade.timeout.connect(self.clear)
        self.hide()

    def wait(self, text: str, cancel: Callable[[], None] | None) -> None:
        """Something runs; it shows once it has taken a moment. Without `cancel` it cannot be stopped."""
        self._say(text, "", busy=True, button="Cancel" if cancel else "", pressed=cancel)
        self._later.start()

    def problem(self, text: str) -> None:
        """Something went wrong."""
        self._say(text, "error", busy=False, button="Dismiss", pressed=self.clear)
        self.show()

    def tell(self, text: str) -> None:
        """Something went well; it is told for a while."""
        self._say(text, "muted", busy=False, button="Dismiss", pressed=self.clear)
        self.show()
        self._fade.start()

    def clear(self) -> None:
        """Nothing to say."""
        self._later.stop()
        self.hide()

    @property
    def said(self) -> str:
        """What is said; empty while nothing is."""
        return "" if self.isHidden() else self._text.text

    def _say(self, text: str, role: str, *, busy: bool, button: str, pressed: Callable[[], None] | None) -> None:
        self._later.stop()
        self._fade.stop()
        self._text.setText(text)
        self._text.setProperty("role", role)
        self._text.style().polish(self._text)
        self._bar.setVisible(busy)
        self._button.setText(button)
        self._button.setVisible(bool(button))
        self._pressed = pressed or (lambda: None)
