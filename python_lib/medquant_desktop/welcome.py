"""What the view area shows while there is no scan: what to do, what was open last, and which series to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

SHOWN_RECENT = 4
WIDE = 35
"""Heights of a line of text."""
STEPS = ("Open a scan", "Choose a model and its bits, quantize", "Draw a box, segment, compare")


class Welcome(QWidget):
    """An empty view area that teaches: drop, open, or try the sample."""

    def __init__(
        self, open_files: Callable[[], None], open_folder: Callable[[], None], sample: Callable[[], None]
    ) -> None:
        super().__init__()
        self.setObjectName("welcome")
        self.open_path: Callable[[Path], None] = lambda path: None
        self._dragged = False
        self._card = QFrame()
        column = QVBoxLayout(self._card)
        column.setSpacing(7)
        column.setContentsMargins(36, 34, 36, 30)
        column.addWidget(_label("Drop a DICOM folder or a scan here", role="display"))
        column.addWidget(
            _label("NIfTI, NRRD and MetaImage files work as well. Nothing leaves this machine.", role="muted")
        )
        column.addSpacing(10)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addStretch(1)
        for text, action, primary, name in (
            ("Open DICOM folder\N{HORIZONTAL ELLIPSIS}", open_folder, True, "openFolder"),
            ("Open file\N{HORIZONTAL ELLIPSIS}", open_files, False, "openFile"),
            ("Open the sample CT", sample, False, "openSample"),
        ):
            button = QPushButton(text)
            button.setObjectName(name)
            button.setProperty("primary", primary)
            button.clicked.connect(lambda *_, do=action: do())
            buttons.addWidget(button)
        buttons.addStretch(1)
        column.addLayout(buttons)
        column.addSpacing(12)
        steps = QLabel("".join(f"<tr><td>{n}&nbsp;&nbsp;</td><td>{step}</td></tr>" for n, step in enumerate(STEPS, 1)))
        steps.setText(f"<table cellspacing='0' cellpadding='3'>{steps.text}</table>")
        steps.setProperty("role", "muted")
        column.addWidget(steps, 0, Qt.AlignmentFlag.AlignHCenter)
        self._recent = QVBoxLayout()
        self._recent.setSpacing(2)
        column.addLayout(self._recent)
        outer = QVBoxLayout(self)
        outer.addStretch(1)
        outer.addWidget(self._card, 0, Qt.AlignmentFlag.AlignHCenter)
        outer.addStretch(1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._card.setFixedWidth(card_width(self))

    def show_recent(self, paths: Sequence[Path]) -> None:
        """List what was opened last."""
        _empty(self._recent)
        if not paths:
            return
        self._recent.addSpacing(12)
        self._recent.addWidget(_label("Opened last", role="title"))
        for path in paths[:SHOWN_RECENT]:
            button = _entry(path.name, str(path.parent))
            button.clicked.connect(lambda *_, which=path: self.open_path(which))
            self._recent.addWidget(button)

    def show_drag(self, over: bool) -> None:
        """Whether something is dragged over the window."""
        self._dragged = over
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette
        painter.fillRect(event.rect(), palette.dark())
        color = palette.highlight().color() if self._dragged else palette.mid().color()
        if self._dragged:
            ground = QColor(color)
            ground.setAlpha(30)
            painter.setBrush(ground)
        painter.setPen(QPen(color, 1.6, Qt.PenStyle.DashLine))
        painter.drawRoundedRect(QRectF(self._card.geometry).adjusted(1, 1, -1, -1), 14, 14)


class SeriesChoice(QWidget):
    """The series of a folder, one of which is to be opened."""

    def __init__(self, chosen: Callable[[int], None], cancelled: Callable[[], None]) -> None:
        super().__init__()
        self.setObjectName("seriesChoice")
        self._chosen = chosen
        self._card = card = QFrame()
        column = QVBoxLayout(card)
        self._title = _label("", role="large")
        column.addWidget(self._title)
        self._list = QVBoxLayout()
        self._list.setSpacing(2)
        column.addLayout(self._list)
        back = QPushButton("Cancel")
        back.clicked.connect(lambda *_: cancelled())
        column.addSpacing(8)
        column.addWidget(back, 0, Qt.AlignmentFlag.AlignHCenter)
        outer = QVBoxLayout(self)
        outer.addStretch(1)
        outer.addWidget(card, 0, Qt.AlignmentFlag.AlignHCenter)
        outer.addStretch(1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._card.setFixedWidth(card_width(self))

    def offer(self, title: str, entries: Sequence[tuple[int, str, str]]) -> None:
        """Ask: each entry is what is answered, its name and its details."""
        self._title.setText(title)
        _empty(self._list)
        for answer, name, details in entries:
            button = _entry(name, details)
            button.clicked.connect(lambda *_, which=answer: self._chosen(which))
            self._list.addWidget(button)

    def paintEvent(self, event: QPaintEvent) -> None:
        QPainter(self).fillRect(event.rect(), self.palette.dark())


def card_width(page: QWidget) -> int:
    """Of what stands in the middle of a page."""
    return min(WIDE * page.fontMetrics().height(), page.width - 40)


def series_entries(series: Sequence[dict[str, Any]]) -> list[tuple[int, str, str]]:
    """What is offered for the series that the reader found."""
    return [
        (
            one["number"],
            one["description"] or f"Series {one['number']}",
            f"{one['modality'] or 'unknown'}, {one['count']} images of {one['size']}",
        )
        for one in series
    ]


def _entry(name: str, details: str) -> QPushButton:
    button = QPushButton(f"{name}\n{details}")
    button.setObjectName("entry")
    button.setStyleSheet("QPushButton#entry { text-align: left; padding: 6px 10px; }")
    button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    button.setToolTip(f"{name}\n{details}")
    return button


def _label(text: str, *, role: str = "") -> QLabel:
    label = QLabel(text)
    label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    label.setWordWrap(True)
    if role:
        label.setProperty("role", role)
    return label


def _empty(layout: QVBoxLayout) -> None:
    while layout.count():
        item = layout.takeAt(0)
        if item.widget():
            item.widget().deleteLater()
