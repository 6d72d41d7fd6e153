"""`medquant app` for a test that sits before the screen: it tells where its widgets are and what the panel says.

`python told_window.py TOLD.json SETTINGS [RECENT]`: several times a second TOLD.json is written anew; RECENT is offered
as opened last. A picture of the screen goes to the file that TOLD.wanted names, which is then removed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PySide6.QtCore import QPoint, QSettings, QTimer
from PySide6.QtWidgets import QPushButton

from medquant_desktop import app
from medquant_desktop.opening import RECENT

EVERY_MS = 100
BUTTONS = ("bits4Button", "quantizeButton", "placeBoxButton", "segmentButton")


def main(told: Path, settings: str, *recent: str) -> int:
    """Start the window with settings of its own."""
    ini, user = QSettings.Format.IniFormat, QSettings.Scope.UserScope
    QSettings.setDefaultFormat(ini)
    QSettings.setPath(ini, user, settings)
    QSettings(ini, user, app.NAME, app.NAME).setValue(RECENT, list(recent))
    make = app.make_window

    def made() -> Any:
        window = make()
        window.move(0, 0)
        window.documents.may_lose = lambda: True
        timer = QTimer(window)
        timer.timeout.connect(lambda: tell(window, told))
        timer.start(EVERY_MS)
        return window

    app.make_window = made
    return app.main([])


def tell(window: Any, told: Path) -> None:
    """Write down where everything is, in pixels of the screen, and what is so."""
    ui, shown, views = window.frame.module.ui, window.frame.presenter.shown, window.views
    widgets = {name: getattr(ui, name) for name in BUTTONS}
    widgets |= {"left": views.left, "panel": window.frame.viewport()}
    entry = window.welcome.findChild(QPushButton, "entry")
    if entry is not None:
        widgets["entry"] = entry
    facts = {
        "places": {name: place_of(widget) for name, widget in widgets.items()},
        "enabled": [name for name in BUTTONS if getattr(ui, name).isEnabled()],
        "open": views.volume is not None,
        "busy": shown.waiting.text if shown.waiting is not None else "",
        "problem": shown.problem.text if shown.problem is not None else "",
        "quantized": shown.quantized,
        "boxes": boxes_of(views.volume),
        "paired": views.paired,
        "table": shown.table is not None,
        "headline": ui.headlineLabel.text if ui.headlineLabel.isVisible() else "",
        "number": views.left.place()[0][0] if views.volume is not None else -1,
    }
    part = told.with_suffix(".part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    part.replace(told)
    wanted = told.with_suffix(".wanted")
    if wanted.is_file() and wanted.read_text(encoding="utf-8"):
        assert window.screen().grabWindow(0).save(wanted.read_text(encoding="utf-8"))
        wanted.unlink()


def place_of(widget: Any) -> list[int]:
    """x, y, width and height; nothing of what is hidden."""
    if not widget.isVisible():
        return []
    corner = widget.mapToGlobal(QPoint(0, 0))
    return [corner.x(), corner.y(), widget.width, widget.height]


def boxes_of(volume: Any) -> list[list[float]]:
    """The bounds of each box in mm."""
    from MedQuantSlicerLib import boxes

    found = []
    for node in boxes.boxes_of(volume) if volume is not None else ():
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        found.append(bounds)
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
