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
MOST_COLUMNS = 4
"""As many stand beside a structure's name in a narrow panel; the others go into a second table."""
COLORS = (style.FP32_BLUE, style.QUANTIZED_AMBER)
BADGES = (_("Arithmetic"), _("Runtime"), _("Device"), _("Weights"))
RUNTIMES = {"": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}


def fill_structures(trees: Sequence[Any], table: Table) -> None:
    """One line for each structure, with the columns in which any of them says something, in two tables if needed."""
    rows = [row for row in table.rows if not row.of_all]
    columns = _spoken(table, rows)
    for number, tree in enumerate(trees):
        part = columns[number * MOST_COLUMNS : (number + 1) * MOST_COLUMNS]
        lines = [(row.title, [(row.cells[n], table.tooltips[n]) for n in part]) for row in rows]
        _fill(tree, [_("Structure"), *(_broken(table.columns[n]) for n in part)], lines if part else [])
        for place, n in enumerate(part, 1):
            tree.headerItem().setToolTip(place, table.tooltips[n])


def fill_models(tree: Any, table: Table) -> None:
    """The models side by side, as their views are: one column for each, one line for each number that both have."""
    rows = [row for row in table.rows if row.of_all]
    lines: list[tuple[str, list[tuple[Cell, str]]]] = []
    for n in _spoken(table, rows):
        title, cells = table.columns[n], [(row.cells[n], table.tooltips[n]) for row in rows]
        if lines and _complete(lines[-1][1], cells):
            # Each model against the reference: two columns for the structures, one line here.
            joined = [one if one[0].text else other for one, other in zip(lines[-1][1], cells)]
            lines[-1] = (_("Dice to reference"), joined)
        else:
            lines.append((title, cells))
    lines = [line for number, line in enumerate(lines) if number == 0 or all(cell.text for cell, _tip in line[1])]
    told = [_facts(row) for row in rows]
    for number, title in enumerate(BADGES):
        badges = [facts[number] if number < len(facts) else "" for facts in told]
        if any(badges):
            lines.append((title, [(Cell(badge), badge) for badge in badges]))
    _fill(tree, ["", *(row.title for row in rows)], lines, even=True)
    for place in range(1, len(rows) + 1):
        tree.headerItem().setIcon(place, swatch(COLORS[min(place - 1, 1)]))


def _facts(row: Row) -> list[str]:
    """The badges of a model, with "int8 kernels (openvino)" as two."""
    if not row.badges:
        return []
    arithmetic, _open, rest = row.badges[0].partition(" (")
    runtime = rest.rstrip(")")
    return [arithmetic, RUNTIMES.get(runtime, runtime), *row.badges[1:]]


def _complete(first: Sequence[tuple[Cell, str]], second: Sequence[tuple[Cell, str]]) -> bool:
    """Whether two lines say something in turn: where one is empty, the other is not."""
    return all(bool(a.text) != bool(b.text) for (a, _x), (b, _y) in zip(first, second))


def _broken(head: str) -> str:
    """A long head in two lines: "FP32 to reference" would take its room from the structures' names."""
    first, _space, rest = head.partition(" ")
    return f"{first}\n{rest}" if len(head) > 12 else head


def _spoken(table: Table, rows: Sequence[Row]) -> list[int]:
    return [n for n in range(len(table.columns)) if any(row.cells[n].text for row in rows)]


def _fill(
    tree: Any, heads: Sequence[str], lines: Sequence[tuple[str, Sequence[tuple[Cell, str]]]], *, even: bool = False
) -> None:
    tree.clear()
    tree.setColumnCount(len(heads))
    tree.setHeaderLabels(list(heads))
    for title, cells in lines:
        item = qt.QTreeWidgetItem([title, *(cell.text for cell, _tip in cells)])
        item.setSizeHint(0, qt.QSize(tree.fontMetrics().horizontalAdvance(title) + 14, ROW_HEIGHT))
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
    stretch, fit = qt.QHeaderView.Stretch, qt.QHeaderView.ResizeToContents
    header.setSectionResizeMode(0, fit if even else stretch)
    for place in range(1, len(heads)):
        tree.headerItem().setTextAlignment(place, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        header.setSectionResizeMode(place, stretch if even else fit)
    tree.setFixedHeight(header.sizeHint.height() + max(1, min(len(lines), MOST_ROWS)) * ROW_HEIGHT + 6)
    tree.setVisible(bool(lines))


def swatch(color: str) -> Any:
    """A small square in the colour of a model's masks."""
    picture = qt.QPixmap(12, 12)
    picture.fill(qt.QColor(color))
    return qt.QIcon(picture)
