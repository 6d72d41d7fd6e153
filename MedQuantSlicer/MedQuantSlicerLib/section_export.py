"""The section "Export": a format, a folder, what will be written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import ExportChoice, Shown
from MedQuantSlicerLib.widgets import show_action, show_text

FOLDER_KEY = "MedQuant/ExportFolder"


class ExportSection:
    """The folder is of this machine, not of the scene: it lives in the application's settings."""

    def __init__(self, ui: Any, presenter: Any) -> None:
        self._ui, self._presenter = ui, presenter
        self._choices: tuple[ExportChoice, ...] = ()
        ui.folderEdit.text = str(qt.QSettings().value(FOLDER_KEY) or Path.home())
        ui.folderButton.clicked.connect(lambda *_: self._choose())
        ui.formatSelector.currentIndexChanged.connect(lambda *_: self._tell())
        ui.exportButton.clicked.connect(lambda *_: self._export())
        ui.openExportedButton.clicked.connect(lambda *_: presenter.open_exported())
        style.mark(ui.writesLabel, "quiet")

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui = self._ui
        if shown.exports != self._choices:
            format_ = self._format()
            self._choices = shown.exports
            ui.formatSelector.clear()
            for choice in shown.exports:
                ui.formatSelector.addItem(choice.title, choice.format)
            ui.formatSelector.setCurrentIndex(max(0, ui.formatSelector.findData(format_)))
        self._tell()
        show_action(ui.exportButton, shown.actions.get("export"))
        show_action(ui.openExportedButton, shown.actions.get("open_exported"))
        ui.openExportedButton.setVisible(bool(shown.exported))

    def _format(self) -> str:
        row = self._ui.formatSelector.currentIndex
        return self._choices[row].format if 0 <= row < len(self._choices) else ""

    def _tell(self) -> None:
        row = self._ui.formatSelector.currentIndex
        known = 0 <= row < len(self._choices)
        show_text(self._ui.writesLabel, _("Writes: {what}").format(what=self._choices[row].writes) if known else "")

    def _choose(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(
            self._ui.folderButton, _("Where to write the exported model"), self._ui.folderEdit.text
        )
        if folder:
            self._ui.folderEdit.text = folder
            qt.QSettings().setValue(FOLDER_KEY, folder)

    def _export(self) -> None:
        self._presenter.export(self._format(), self._ui.folderEdit.text)
