"""The comparison as two small tables: what the masks are worth, structure by structure, and what each model costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Cell, Row, Table

ROW_HEIGHT = 22
MOST_ROWS = 10
COLORS = (style.FP32_BLUE, style.QUANTIZED_AMBER)


def fill_structures(tree: Any, table: Table) -> None:
    """One line for each structure, with the columns in which any of them says something."""
    rows = [row for row in table.rows if not row.of_all]
    columns = _spoken(table, rows)
    lines = [(row.title, [(row.cells[n], table.tooltips[n]) for n in columns]) for row in rows]
    _fill(tree, [_("Structure"), *(table.columns[n] for n in columns)], lines)
    for place, n in enumerate(columns, 1):
        tree.headerItem().setToolTip(place, table.tooltips[n])


def fill_models(tree: Any, table: Table) -> None:
    """The models side by side, as their views are: one column for each, one line for each number."""
    rows = [row for row in table.rows if row.of_all]
    lines = [(table.columns[n], [(row.cells[n], table.tooltips[n]) for row in rows]) for n in _spoken(table, rows)]
    badges = [(Cell(", ".join(row.badges)), "") for row in rows]
    if any(cell.text for cell, _tip in badges):
        lines.append((_("computed by"), badges))
    _fill(tree, ["", *(row.title for row in rows)], lines)
    for place in range(1, len(rows) + 1):
        tree.headerItem().setIcon(place, swatch(COLORS[min(place - 1, 1)]))


def _spoken(table: Table, rows: Sequence[Row]) -> list[int]:
    return [n for n in range(len(table.columns)) if any(row.cells[n].text for row in rows)]


def _fill(tree: Any, heads: Sequence[str], lines: Sequence[tuple[str, Sequence[tuple[Cell, str]]]]) -> None:
    tree.clear()
    tree.setColumnCount(len(heads))
    tree.setHeaderLabels(list(heads))
    for title, cells in lines:
        item = qt.QTreeWidgetItem([title, *(cell.text for cell, _tip in cells)])
        item.setSizeHint(0, qt.QSize(0, ROW_HEIGHT))
        item.setToolTip(0, title)
        for place, (cell, tip) in enumerate(cells, 1):
            item.setTextAlignment(place, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            item.setToolTip(place, cell.tooltip or tip)
            if cell.strong:
                font = item.font(place)
                font.setBold(True)
                item.setFont(place, font)
        tree.addTopLevelItem(item)
    header = tree.header()
    header.setStretchLastSection(False)
    header.setMinimumSectionSize(24)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    for place in range(1, len(heads)):
        tree.headerItem().setTextAlignment(place, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        header.setSectionResizeMode(place, qt.QHeaderView.ResizeToContents)
    tree.setFixedHeight(header.sizeHint.height() + max(1, min(len(lines), MOST_ROWS)) * ROW_HEIGHT + 6)
    tree.setVisible(bool(lines))


def swatch(color: str) -> Any:
    """A small square in the colour of a model's masks."""
    picture = qt.QPixmap(12, 12)
    picture.fill(qt.QColor(color))
    return qt.QIcon(picture)
