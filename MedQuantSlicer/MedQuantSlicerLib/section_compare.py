"""The section "Compare": headline, tables, the slice that differs most, how masks are drawn, the report."""

from __future__ import annotations

from typing import Any

import qt

from MedQuantSlicerLib import compare_table, style
from MedQuantSlicerLib.messages import TEXTS, _, of_model
from MedQuantSlicerLib.state import Shown, Table
from MedQuantSlicerLib.widgets import row_height, show_action, show_text


class CompareSection:
    """What quantization cost."""

    def __init__(self, ui: Any, presenter: Any) -> None:
        self._ui = ui
        self._table: Table | None = None
        self._row = 0
        style.mark(ui.headlineLabel, "headline")
        style.mark(ui.notesLabel, "small")
        style.mark(ui.teachLabel, "quiet")
        style.mark(ui.worstLabel, "quiet")
        ui.worstButton.clicked.connect(lambda *_: presenter.jump_to_worst())
        ui.differenceButton.clicked.connect(lambda *_: presenter.difference())
        ui.compareButton.clicked.connect(lambda *_: presenter.compare())
        ui.reportButton.clicked.connect(lambda *_: self._save(presenter))
        for tree in (ui.compareTable, ui.referenceTable, ui.costTable):
            tree.setContextMenuPolicy(qt.Qt.ActionsContextMenu)
            copy = qt.QAction(_("Copy table"), tree)
            copy.triggered.connect(lambda *_: self._copy())
            tree.addAction(copy)
            tree.setToolTip(_("Right-click to copy the table"))

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui, table = self._ui, shown.table
        row = row_height(ui.compareTable)
        if (table, row) != (self._table, self._row):
            self._table, self._row = table, row
            if table is not None:
                compare_table.fill_structures((ui.compareTable, ui.referenceTable), table)
                compare_table.fill_models(ui.costTable, table)
        headline = table.headline if table else ""
        show_text(ui.headlineLabel, of_model(shown.table_of, headline) if shown.table_of else headline)
        show_text(ui.teachLabel, "" if table else _("Segment with both models to see what quantization costs."))
        for widget in (ui.worstButton, ui.differenceButton, ui.reportButton):
            widget.setVisible(table is not None)
        for widget in (ui.opacityLabel, ui.opacitySlider, ui.filledBox):
            widget.setVisible(bool(shown.left_title or shown.right_title))
        compare = shown.actions.get("compare")
        ui.compareButton.setVisible(compare is not None and (compare.primary or compare.text != TEXTS["compare"]))
        show_text(ui.notesLabel, "\n".join(table.notes) if table else "")
        if table is None:
            for tree in (ui.compareTable, ui.referenceTable, ui.costTable):
                tree.setVisible(False)
        show_text(ui.worstLabel, shown.worst)
        show_action(ui.worstButton, shown.actions.get("jump_to_worst"), text=False)
        show_action(ui.differenceButton, shown.actions.get("difference"), text=False)
        ui.differenceButton.setChecked(shown.difference_shown)
        show_action(ui.compareButton, compare)
        show_action(ui.reportButton, shown.actions.get("save_report"))

    def _copy(self) -> None:
        if self._table is not None:
            qt.QApplication.clipboard().setText(self._table.csv)

    def _save(self, presenter: Any) -> None:
        path = qt.QFileDialog.getSaveFileName(
            self._ui.reportButton, _("Save the report"), "medquant-report.html", _("Web page (*.html)")
        )
        if path:
            presenter.save_report(path)
