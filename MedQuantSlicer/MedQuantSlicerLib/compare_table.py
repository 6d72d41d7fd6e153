"""The comparison as two small tables: what the masks are worth, and what the models cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Row, Table

ROW_HEIGHT = 22
COLORS = (style.FP32_BLUE, style.QUANTIZED_AMBER)


def fill(tree: Any, table: Table, rows: Sequence[Row], *, badges: bool) -> None:
    """Show these rows with the columns in which any of them says something."""
    columns = [n for n in range(len(table.columns)) if any(row.cells[n].text for row in rows)]
    heads = ["", *(table.columns[n] for n in columns), *([_("ran on")] if badges else [])]
    tree.clear()
    tree.setColumnCount(len(heads))
    tree.setHeaderLabels(heads)
    for place, n in enumerate(columns, 1):
        tree.headerItem().setToolTip(place, table.tooltips[n])
        tree.headerItem().setTextAlignment(place, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    for number, row in enumerate(rows):
        tree.addTopLevelItem(_item(row, columns, badges, COLORS[min(number, 1)] if badges else ""))
    header = tree.header()
    header.setStretchLastSection(False)
    header.setMinimumSectionSize(24)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    for place in range(1, len(heads)):
        header.setSectionResizeMode(place, qt.QHeaderView.ResizeToContents)
    tree.setFixedHeight(header.sizeHint.height() + max(1, min(len(rows), 10)) * ROW_HEIGHT + 6)
    tree.setVisible(bool(rows))


def _item(row: Row, columns: Sequence[int], badges: bool, color: str) -> Any:
    texts = [row.title, *(row.cells[n].text for n in columns), *([", ".join(row.badges)] if badges else [])]
    item = qt.QTreeWidgetItem(texts)
    item.setSizeHint(0, qt.QSize(0, ROW_HEIGHT))
    item.setToolTip(0, row.title)
    if color:
        item.setIcon(0, swatch(color))
    for place, n in enumerate(columns, 1):
        cell = row.cells[n]
        item.setTextAlignment(place, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        item.setToolTip(place, cell.tooltip or table_tip(cell.text))
        if cell.strong:
            font = item.font(place)
            font.setBold(True)
            item.setFont(place, font)
    return item


def table_tip(text: str) -> str:
    """The tool tip of a cell that has none of its own."""
    return text


def swatch(color: str) -> Any:
    """A small square in the colour of a model's masks."""
    picture = qt.QPixmap(12, 12)
    picture.fill(qt.QColor(color))
    return qt.QIcon(picture)
