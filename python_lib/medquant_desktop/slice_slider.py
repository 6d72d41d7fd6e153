"""The slider under the views: which slice, and in which slices the masks differ how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from medquant_desktop.theme import QUANTIZED

HEIGHT = 28
EDGE = 9.0
HANDLE = 7.0


class SliceSlider(QWidget):
    """A horizontal slider over `count` slices, with a bar for each that says how much the masks differ there."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Callable[[int], None] = lambda number: None
        """Called with the number, from 0, that the user drags to."""
        self.count = 0
        self.number = 0
        self.profile: tuple[float, ...] = ()
        self._wide = 1.0
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip("Drag to another slice. Wheel: one slice, shift and wheel: ten.")

    def show_place(self, number: int, count: int) -> None:
        """Show that slice `number` of `count` is seen."""
        if (number, count) != (self.number, self.count):
            self.number, self.count = number, count
            self.update()

    def show_profile(self, values: Sequence[float]) -> None:
        """How much the masks differ in each slice; empty: not known."""
        self.profile = tuple(values)
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(240, HEIGHT)

    def position_of(self, number: int) -> float:
        """Where the middle of a slice lies."""
        return EDGE + (self._wide - 2 * EDGE) * (number / max(1, self.count - 1))

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._wide = float(event.size().width())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._drag(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._drag(event)

    def _drag(self, event: QMouseEvent) -> None:
        if self.count < 2:
            return
        share = (event.position().x() - EDGE) / max(1.0, self._wide - 2 * EDGE)
        self.chosen(round(min(1.0, max(0.0, share)) * (self.count - 1)))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        colors = self.palette
        colors = colors() if callable(colors) else colors
        middle = HEIGHT - 10.0
        painter.setBrush(colors.mid().color())
        painter.drawRoundedRect(QRectF(EDGE, middle - 2, self._wide - 2 * EDGE, 4), 2, 2)
        if self.count < 2:
            return
        if len(self.profile) == self.count and max(self.profile) > 0:
            self._paint_profile(painter, middle - 3)
        painter.setBrush(colors.text().color() if self.isEnabled() else colors.mid().color())
        painter.drawEllipse(QPointF(self.position_of(self.number), middle), HANDLE, HANDLE)

    def _paint_profile(self, painter: QPainter, base: float) -> None:
        most = max(self.profile)
        wide = max(1.5, min(10.0, (self._wide - 2 * EDGE) / self.count - 1.0))
        painter.setBrush(QColor(QUANTIZED))
        for number, value in enumerate(self.profile):
            if value > 0:
                high = 2.0 + (base - 4.0) * value / most
                painter.drawRect(QRectF(self.position_of(number) - wide / 2, base - high, wide, high))
