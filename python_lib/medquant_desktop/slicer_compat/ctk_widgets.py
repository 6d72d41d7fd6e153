"""The few widgets of CTK that the panel uses, with CTK's properties and signals."""

from __future__ import annotations

from PySide6.QtCore import Property, QEvent, QRect, Qt, Signal
from PySide6.QtGui import QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOption,
    QWidget,
)


class ctkCollapsibleButton(QWidget):
    """A titled section that folds: a header to click, and below it whatever the `.ui` file lays out."""

    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)  # as CTK's Python binding: the title is set afterwards
        self._text, self._collapsed, self._inside = "", False, []
        self._by_keyboard = False
        # As CTK's: never narrower than what it holds would like to be, unless the `.ui` file says otherwise.
        self.setSizePolicy(QSizePolicy.Minimum, QSizePolicy.Preferred)
        self.setFocusPolicy(Qt.TabFocus)  # the keyboard opens sections too
        self.setAttribute(Qt.WA_Hover)
        self._make_room()

    def _header(self) -> int:
        return self.fontMetrics().height() + 10

    def _make_room(self) -> None:
        self.setContentsMargins(0, self._header(), 0, 0)
        self.setMinimumHeight(self._header())
        self.setMaximumHeight(self._header() if self._collapsed else 16777215)

    def _get_text(self) -> str:
        return self._text

    def _set_text(self, text: str) -> None:
        self._text = text
        self.setAccessibleName(text)
        self.update()

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            self._inside = []
            self._hide_inside()
        else:
            for child in self._inside:
                child.setVisible(True)
        self._make_room()
        self.updateGeometry()
        self.update()
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    def _hide_inside(self) -> None:
        """Those that hide for a reason of their own stay hidden when the section opens."""
        for child in self.findChildren(QWidget, options=Qt.FindDirectChildrenOnly):
            if not child.isWindow() and not child.isHidden():
                self._inside.append(child)
                child.setVisible(False)

    def event(self, event) -> bool:
        # What is shown, or comes, while the section is folded waits until it opens.
        if event.type() == QEvent.LayoutRequest and self._collapsed:
            self._hide_inside()
        return super().event(event)

    text = Property(str, _get_text, _set_text)
    collapsed = Property(bool, _get_collapsed, _set_collapsed)

    def setText(self, text: str) -> None:
        """As of QAbstractButton."""
        self._set_text(text)

    def setCollapsed(self, collapsed: bool) -> None:
        """As of CTK."""
        self._set_collapsed(collapsed)

    def mouseReleaseEvent(self, event) -> None:
        if event.button() == Qt.LeftButton and event.position().y() <= self._header():
            self._set_collapsed(not self._collapsed)

    def keyPressEvent(self, event) -> None:
        if event.key() in (Qt.Key_Space, Qt.Key_Return):
            self._set_collapsed(not self._collapsed)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event) -> None:
        self._by_keyboard = event.reason() in (Qt.TabFocusReason, Qt.BacktabFocusReason)
        super().focusInEvent(event)

    def paintEvent(self, event) -> None:
        painter = QPainter(self)
        header = QRect(0, 0, self.rect.width(), self._header())
        palette = self.palette
        hovered = self.underMouse() and header.contains(self.mapFromGlobal(self.cursor.pos()))
        ink = palette.windowText().color()
        ink.setAlpha(34 if hovered else 18)
        painter.setRenderHint(QPainter.Antialiasing)
        painter.setPen(palette.highlight().color() if self._by_keyboard and self.hasFocus() else Qt.NoPen)
        painter.setBrush(ink)
        painter.drawRoundedRect(header.adjusted(0, 0, -1, -1), 3, 3)
        arrow = QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QRect(7, header.height() // 2 - 5, 10, 10)
        element = QStyle.PE_IndicatorArrowRight if self._collapsed else QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(element, arrow, painter, self)
        # "Scan: CT, 512 x 512 x 20": the title in bold, what was chosen in it not.
        title, _colon, chosen = self._text.partition(": ")
        font = QFont(self.font)
        font.setBold(True)
        painter.setFont(font)
        painter.setPen(palette.windowText().color())
        place = header.adjusted(24, 0, -8, 0)
        painter.drawText(place, Qt.AlignVCenter | Qt.AlignLeft, title)
        if chosen:
            painter.setFont(self.font)
            place.setLeft(place.left() + max(QFontMetrics(font).horizontalAdvance(title) + 12, self._column()))
            elided = self.fontMetrics().elidedText(chosen, Qt.ElideRight, place.width())
            painter.drawText(place, Qt.AlignVCenter | Qt.AlignLeft, elided)

    def _column(self) -> int:
        """Where what was chosen begins: below each other in all sections."""
        return self.fontMetrics().horizontalAdvance("m") * 6


class ctkSliderWidget(QWidget):
    """A slider and a number that say the same."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._box = QSlider(Qt.Horizontal, self), QDoubleSpinBox(self)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._box)
        self._slider.valueChanged.connect(self._slid)
        self._box.valueChanged.connect(self._typed)
        self.setFocusProxy(self._box)
        self._spread()

    def _spread(self) -> None:
        """The slider has whole steps; the number rules."""
        span = (self._box.maximum - self._box.minimum) / (self._box.singleStep or 1)
        held = self._slider.blockSignals(True)
        self._slider.setRange(0, max(1, round(span)))
        self._slider.setValue(round((self._box.value - self._box.minimum) / (self._box.singleStep or 1)))
        self._slider.blockSignals(held)

    def _slid(self, steps: int) -> None:
        self._box.setValue(self._box.minimum + steps * self._box.singleStep)

    def _typed(self, value: float) -> None:
        self._spread()
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)

    def _relay(name: str, kind: type):
        def write(self, value):
            setattr(self._box, name, value)
            self._spread()

        return Property(kind, lambda self: getattr(self._box, name), write)

    minimum = _relay("minimum", float)
    maximum = _relay("maximum", float)
    value = _relay("value", float)
    singleStep = _relay("singleStep", float)
    decimals = _relay("decimals", int)
    suffix = _relay("suffix", str)
    del _relay

    def setValue(self, value: float) -> None:
        """As of CTK."""
        self.value = value


class ctkSearchBox(QLineEdit):
    """A line to search in, with a button that empties it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setClearButtonEnabled(True)
        self.setPlaceholderText("Search...")


WIDGETS = {cls.__name__: cls for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkSearchBox)}
