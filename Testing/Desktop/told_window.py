"""`medquant app` for a test that sits before the screen: it tells where its widgets are and what the panel says.

`python told_window.py TOLD.json SETTINGS [RECENT...]`: several times a second TOLD.json is written anew; RECENT are
offered as opened last. A picture of the screen goes to the file that TOLD.wanted names, which is then removed. It only
tells.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PySide6.QtCore import QRect, QSettings, QTimer
from PySide6.QtWidgets import QApplication, QFileDialog, QLineEdit, QPushButton, QTreeWidgetItem

from medquant_desktop import app
from medquant_desktop.opening import RECENT

EVERY_MS = 100


def main(told: Path, settings: str, *recent: str) -> int:
    """Start the window with settings of its own."""
    ini, user = QSettings.Format.IniFormat, QSettings.Scope.UserScope
    QSettings.setDefaultFormat(ini)
    QSettings.setPath(ini, user, settings)
    if recent:
        QSettings(ini, user, app.NAME, app.NAME).setValue(RECENT, list(recent))
    make = app.make_window

    def made() -> Any:
        window = make()
        window.move(0, 0)
        timer = QTimer(window)
        timer.timeout.connect(lambda: tell(window, told))
        timer.start(EVERY_MS)
        return window

    app.make_window = made
    return app.main([])


def tell(window: Any, told: Path) -> None:
    """Write down where everything is, and what is so."""
    part = told.with_suffix(".part")
    part.write_text(json.dumps({**where(window), **what(window)}), encoding="utf-8")
    part.replace(told)
    wanted = told.with_suffix(".wanted")
    if wanted.is_file() and wanted.read_text(encoding="utf-8"):
        assert window.screen().grabWindow(0).save(wanted.read_text(encoding="utf-8"))
        wanted.unlink()


# -- where


def where(window: Any) -> dict[str, Any]:
    """The widgets that can be seen, in pixels of the screen, and which of them can be used."""
    named = vars(window.frame.module.ui)
    places = {name: place_of(widget) for name, widget in named.items() if widget.isVisible()}
    others = {"left": window.views.left, "panel": window.frame.viewport()}
    entry = window.welcome.findChild(QPushButton, "entry")
    dialog = QApplication.activeModalWidget()
    field = dialog.findChild(QLineEdit, "fileNameEdit") if isinstance(dialog, QFileDialog) else None
    others |= {"entry": entry, "fileNameEdit": field}
    places |= {name: place_of(widget) for name, widget in others.items() if widget is not None and widget.isVisible()}
    rows = rows_of(named["heatmap"])
    return {
        "places": places | rows,
        "enabled": [name for name in places if name in named and named[name].isEnabled()] + list(rows),
        "unfolded": [name for name, widget in named.items() if getattr(widget, "collapsed", True) is False],
        "front": int((dialog or window).winId()),
        "written": field.text if field is not None else "",
    }


def place_of(widget: Any, inside: QRect | None = None) -> list[int]:
    """x, y, width and height of a widget, or of a part of it."""
    part = inside if inside is not None else widget.rect
    corner = widget.mapToGlobal(part.topLeft())
    return [corner.x(), corner.y(), part.width(), part.height()]


def rows_of(tree: Any) -> dict[str, list[int]]:
    """The last cell of each layer and block of the heatmap that can be seen, by "row NAME"."""
    from MedQuantSlicerLib.heatmap import NAME_ROLE

    found, ground = {}, tree.viewport()
    for item in items_of(tree.invisibleRootItem()) if tree.isVisible() else ():
        cell = tree.visualItemRect(item)
        last = tree.columnCount - 1
        cell.setLeft(tree.columnViewportPosition(last))
        cell.setWidth(tree.columnWidth(last))
        name = item.data(0, NAME_ROLE) or item.toolTip(0)
        if ground.rect.contains(cell):
            found[f"row {name}"] = place_of(ground, cell)
    return found


def items_of(parent: QTreeWidgetItem) -> Iterator[QTreeWidgetItem]:
    """The items below one, as far as they are unfolded."""
    for number in range(parent.childCount()):
        item = parent.child(number)
        yield item
        if item.isExpanded():
            yield from items_of(item)


# -- what


def what(window: Any) -> dict[str, Any]:
    """What the panel and the views show."""
    ui, shown, views = window.frame.module.ui, window.frame.presenter.shown, window.views
    return {
        "open": views.volume is not None,
        "busy": shown.waiting.text if shown.waiting is not None else "",
        "problem": shown.problem.text if shown.problem is not None else "",
        "notice": window.notice.said,
        "quantized": shown.quantized,
        "boxes": boxes_of(views.volume),
        "paired": views.paired,
        "titles": [shown.left_title, shown.right_title],
        "masks": masks_of(window) if shown.waiting is None else [],
        "table": shown.table.csv if shown.table is not None else "",
        "headline": shown.table.headline if shown.table is not None and ui.headlineLabel.isVisible() else "",
        "heat": [[one.layer, one.bits, one.effect] for one in shown.heatmap.cells] if shown.heatmap else [],
        "measured": shown.heatmap is not None and shown.heatmap.complete,
        "layer": shown.layer.name if shown.layer is not None else "",
        "wishes": dict(shown.overrides),
        "exported": shown.exported,
        "number": views.left.place()[0][0] if views.volume is not None else -1,
    }


def boxes_of(volume: Any) -> list[list[float]]:
    """The bounds of each box in mm."""
    from MedQuantSlicerLib import boxes

    found = []
    for node in boxes.boxes_of(volume) if volume is not None else ():
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        found.append(bounds)
    return found


def masks_of(window: Any) -> list[str]:
    """Digests of the voxels of both masks, as far as they lie in the scene."""
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    host = window.frame.module.host
    return [state for kind in (FP32, QUANTIZED) if (state := host.masks_state(kind))]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
