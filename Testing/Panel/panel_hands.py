"""Hands and eyes for the panel: what a user clicks, chooses and sees."""

from __future__ import annotations

import time
from typing import Any

import panel_geometries as geometries


def settle(milliseconds: float = 30) -> None:
    """Let the event loop turn for a while."""
    import qt

    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        qt.QApplication.processEvents()
        time.sleep(0.002)


def show(widget: Any) -> Any:
    """Put the panel on the screen, 420 pixels wide."""
    widget.parent.resize(420, 1400)
    widget.parent.show()
    settle()
    return widget


def click(button: Any) -> None:
    """Click a button that can be seen and pressed."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    assert button.isVisible(), f"{button.objectName} cannot be seen"
    assert button.enabled, f"{button.objectName} cannot be pressed: {button.toolTip}"
    QTest.mouseClick(button, Qt.LeftButton)
    settle()


def choose(combo: Any, text: str) -> None:
    """Choose an entry of a combo box by its list, as a hand does with the keys."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    assert combo.isVisible(), f"{combo.objectName} cannot be seen"
    entries = [combo.itemText(place) for place in range(combo.count)]
    QTest.keyClick(combo, Qt.Key_Home)
    for _ in range(entries.index(text)):
        QTest.keyClick(combo, Qt.Key_Down)
    settle()
    assert combo.currentText == text


def choose_scan(widget: Any, name: str = "axial") -> Any:
    """A new scan of a geometry, chosen in the panel."""
    volume = geometries.add_volume(name)
    volume.CreateDefaultDisplayNodes()
    widget.parameters.inputVolume = volume
    settle()
    return volume


def draw_box(volume: Any, name: str = "liver") -> Any:
    """A new box on a scan."""
    from MedQuantSlicerLib import boxes

    box = boxes.new_box(volume, name)
    boxes.fit_box(box, volume, (2, 3, 2), (9, 9, 5))
    settle(250)
    return box


def primary(widget: Any) -> list[str]:
    """The filled buttons, by name."""
    import qt

    return [b.objectName for b in widget.root.findChildren(qt.QPushButton) if b.property("primary")]
