"""The row over the views: orientation, and what is shown besides."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QToolButton, QWidget

from medquant_desktop.linked_views import THREE_D, LinkedViews
from medquant_desktop.slice_view import ORIENTATIONS


class ViewBar(QWidget):
    """Buttons over the views. What the difference button does is the panel's business."""

    def __init__(self, views: LinkedViews) -> None:
        super().__init__()
        self.setObjectName("viewBar")
        self._views = views
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 4, 8, 4)
        row.setSpacing(2)
        self._orientation = QButtonGroup(self)
        self._orientation.setExclusive(True)
        for number, name in enumerate(ORIENTATIONS, 1):
            button = _button(name, f"Show {name.lower()} slices ({number})", checkable=True)
            button.clicked.connect(lambda *_, which=name: views.set_orientation(which))
            self._orientation.addButton(button)
            row.addWidget(button)
        row.addSpacing(10)
        fit = _button("Fit", "Show the whole body again (R)")
        fit.clicked.connect(lambda *_: views.fit())
        row.addWidget(fit)
        row.addStretch(1)
        self.linked = _button("Linked", "All views show the same slice and zoom", checkable=True, on=True)
        self.linked.toggled.connect(views.set_linked)
        self.crosshair = _button("Crosshair", "Draw a crosshair; hold shift and move to place it", checkable=True)
        self.crosshair.toggled.connect(views.set_crosshair)
        self.difference = _button("Difference", "", checkable=True)
        self.three_d = _button("3-D", "Show the surfaces of the masks", checkable=True)
        self.three_d.clicked.connect(lambda *_: views.show_optional(THREE_D, not views.is_shown(THREE_D)))
        for button in (self.linked, self.crosshair, self.difference, self.three_d):
            row.addWidget(button)
        self.refresh()

    def refresh(self) -> None:
        """Follow what the views show."""
        for button in self._orientation.buttons():
            button.setChecked(button.text == self._views.orientation)
        self.three_d.setChecked(self._views.is_shown(THREE_D))
        self.setEnabled(self._views.volume is not None)

    def follow(self, shown: Any) -> None:
        """Follow what the panel says of the difference."""
        action = shown.actions["difference"]
        self.difference.setEnabled(action.enabled)
        self.difference.setChecked(shown.difference_shown)
        self.difference.setToolTip(f"{action.tooltip} (D)" if action.enabled else action.tooltip)


def _button(text: str, tip: str, *, checkable: bool = False, on: bool = False) -> QToolButton:
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setObjectName(f"view{text.replace('-', '')}")
    button.setCheckable(checkable)
    button.setChecked(on)
    return button
