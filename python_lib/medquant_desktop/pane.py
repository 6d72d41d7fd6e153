"""One view of the window under a strip that says what it shows."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from medquant_desktop import theme

LEFT, RIGHT, DIFFERENCE, THREE_D = "MedQuantFP32", "MedQuantQuantized", "MedQuantDifference", "MedQuant3D"
"""Tags of the view nodes."""
DOTS = {LEFT: theme.FP32, RIGHT: theme.QUANTIZED}
NAMES = {LEFT: "FP32", RIGHT: "Quantized", DIFFERENCE: "Difference", THREE_D: "3-D"}


class Pane(QWidget):
    """A view under a strip that says what it shows."""

    def __init__(self, tag: str, view: QWidget) -> None:
        super().__init__()
        self.tag, self.view = tag, view
        self._dot, self._title = QLabel(), QLabel(NAMES[tag])
        self._title.setObjectName(f"title{tag}")
        strip = QWidget()
        strip.setObjectName("strip")
        strip.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        row = QHBoxLayout(strip)
        row.setContentsMargins(10, 4, 8, 4)
        row.setSpacing(7)
        row.addWidget(self._dot)
        row.addWidget(self._title)
        row.addStretch(1)
        color = DOTS.get(tag)
        self._dot.setFixedSize(9, 9)
        self._dot.setStyleSheet(f"background: {color}; border-radius: 4px;" if color else "")
        self._dot.setVisible(color is not None)
        if tag == THREE_D:
            row.addWidget(_legend(theme.AGREED, "both"))
        if tag in (DIFFERENCE, THREE_D):
            row.addWidget(_legend(theme.FP32, "FP32 only"))
            row.addWidget(_legend(theme.QUANTIZED, "quantized only"))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(strip)
        column.addWidget(view, 1)
        self.strip = strip

    def set_title(self, text: str) -> None:
        """What stands over the view."""
        self._title.setText(text)


def _legend(color: str, text: str) -> QLabel:
    label = QLabel(f'<span style="color:{color}">\N{BLACK SQUARE}</span> {text}')
    label.setProperty("role", "muted")
    return label
