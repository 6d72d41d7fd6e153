"""The comparison as two small tables: what the masks are worth, structure by structure, and what each model costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Cell, Row, Table
from MedQuantSlicerLib.widgets import row_height

MOST_ROWS = 10
MOST_COLUMNS = 4
"""As many stand beside a structure's name in a narrow panel; the others go into a second table."""
COLORS = (style.FP32_BLUE, style.QUANTIZED_AMBER)
BADGES = (_("Arithmetic"), _("Runs on"), _("Weights"))


def fill_structures(trees: Sequence[Any], table: Table) -> None:
    """One line for each structure, with the columns in which any of them says something, in two tables if needed."""
    rows = [row for row in table.rows if not row.of_all]
    columns = _spoken(table, rows)
    if len(rows) == 1:
        trees[1].setVisible(False)  # the models' table tells the same
        trees = trees[:1]
    for number, tree in enumerate(trees):
        part = columns[number * MOST_COLUMNS : (number + 1) * MOST_COLUMNS]
        lines = [(row.title, [(row.cells[n], table.tooltips[n]) for n in part]) for row in rows]
        _fill(tree, [_("Structure"), *(_broken(table.columns[n]) for n in part)], lines if part else [])
        for place, n in enumerate(part, 1):
            tree.headerItem().setToolTip(place, table.tooltips[n])


def fill_models(tree: Any, table: Table) -> None:
    """The models side by side, as their views are: one column for each, one line for each number that both have.

    What the structures tell already is not told again, but for Dice against the reference, one line for all of them.
    """
    rows = [row for row in table.rows if row.of_all]
    told = set(_spoken(table, [row for row in table.rows if not row.of_all]))
    spoken = _spoken(table, rows)
    cells = {n: [(row.cells[n], table.tooltips[n]) for row in rows] for n in spoken}
    lines: list[tuple[str, list[tuple[Cell, str]]]] = []
    for n, following in zip(spoken, [*spoken[1:], None]):
        if following is not None and _complete(cells[n], cells[following]):
            # Each model against the reference: two columns for the structures, one line here.
            joined = [one if one[0].text else other for one, other in zip(cells[n], cells[following])]
            lines.append((_("Dice to reference"), joined))
        elif n not in told and all(cell.text for cell, _tip in cells[n]):
            lines.append((table.columns[n], cells[n]))
    facts = [_facts(row) for row in rows]
    for number, title in enumerate(BADGES):
        badges = [one[number] if number < len(one) else "" for one in facts]
        if any(badges):
            # "int8 kernels, 3/74 float32", "ONNX Runtime, CPU": what is left to floating point, and that it is the
            # processor which computes, are told by the tool tip.
            texts = [badge.partition(", ")[0] if number == 0 else badge.removesuffix(", CPU") for badge in badges]
            lines.append((title, [(Cell(text), badge) for text, badge in zip(texts, badges)]))
    _fill(tree, ["", *(row.title for row in rows)], lines, beside=True)
    for place in range(1, len(rows) + 1):
        tree.headerItem().setIcon(place, swatch(COLORS[min(place - 1, 1)]))


def _facts(row: Row) -> list[str]:
    """The badges of a model, with "int8 kernels (OpenVINO)" as two."""
    if not row.badges:
        return []
    arithmetic, _open, rest = row.badges[0].partition(" (")
    where = ", ".join([rest.rstrip(")") or "PyTorch", *row.badges[1:2]])
    return [arithmetic, where, *row.badges[2:]]


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
    tree: Any, heads: Sequence[str], lines: Sequence[tuple[str, Sequence[tuple[Cell, str]]]], *, beside: bool = False
) -> None:
    """`beside`: each column is a model and each line in another unit, so cells stand at the left under their head;
    otherwise a column is one measure, and its digits stand below each other at the right."""
    tree.clear()
    tree.setColumnCount(len(heads))
    tree.setHeaderLabels(list(heads))
    high = row_height(tree)
    side = (qt.Qt.AlignLeft if beside else qt.Qt.AlignRight) | qt.Qt.AlignVCenter
    for title, cells in lines:
        item = qt.QTreeWidgetItem([title, *(cell.text for cell, _tip in cells)])
        item.setSizeHint(0, qt.QSize(tree.fontMetrics().horizontalAdvance(title) + 14, high))
        item.setToolTip(0, title)
        for place, (cell, tip) in enumerate(cells, 1):
            item.setTextAlignment(place, side)
            item.setToolTip(place, "\n".join(dict.fromkeys(filter(None, (cell.text, cell.tooltip or tip)))))
            if cell.strong:
                font = item.font(place)
                font.setBold(True)
                item.setFont(place, font)
        tree.addTopLevelItem(item)
    header = tree.header()
    header.setStretchLastSection(False)
    header.setMinimumSectionSize(24)
    stretch, fit = qt.QHeaderView.Stretch, qt.QHeaderView.ResizeToContents
    header.setSectionResizeMode(0, fit if beside else stretch)
    for place in range(1, len(heads)):
        tree.headerItem().setTextAlignment(place, side)
        header.setSectionResizeMode(place, stretch if beside else fit)
    tree.setFixedHeight(header.sizeHint.height() + max(1, min(len(lines), MOST_ROWS)) * high + 4)
    tree.setVisible(bool(lines))


def swatch(color: str) -> Any:
    """A small square in the colour of a model's masks."""
    picture = qt.QPixmap(10, 10)
    picture.fill(qt.QColor(color))
    return qt.QIcon(picture)
