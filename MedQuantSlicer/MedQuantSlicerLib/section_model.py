"""The section "Model": the chosen one as a card; a click on it opens a list to search."""

from __future__ import annotations

from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import ModelLine, Shown
from MedQuantSlicerLib.widgets import Fold, label, row_height, show_action, show_text

SPEC_ROLE = 0x0100  # Qt.UserRole, as a plain number for both bindings
LINES = 6
DOT = " \N{MIDDLE DOT} "


class ModelSection:
    """The list of models."""

    def __init__(self, ui: Any, presenter: Any) -> None:
        self._ui, self._presenter = ui, presenter
        self._lines: tuple[ModelLine, ...] = ()
        self._chosen = ""
        style.mark(ui.modelButton, "card")
        style.mark(ui.cacheLabel, "quiet")
        style.mark(ui.modelNeedsLabel, "quiet")
        self._title, self._facts, self._arrow = (
            label(word_wrap=True),
            label(quiet=True, word_wrap=True),
            qt.QToolButton(),
        )
        self._title.setStyleSheet("font-weight: bold")
        self._arrow.setAutoRaise(True)
        card = qt.QGridLayout(ui.modelButton)
        card.setContentsMargins(10, 7, 6, 7)
        card.setSpacing(2)
        card.addWidget(self._title, 0, 0)
        card.addWidget(self._facts, 1, 0)
        card.addWidget(self._arrow, 0, 1, 2, 1)
        card.setColumnStretch(0, 1)
        for part in (self._title, self._facts, self._arrow):
            part.setAttribute(qt.Qt.WA_TransparentForMouseEvents)
        ui.modelButton.toggled.connect(self._open)
        ui.modelSearch.textChanged.connect(lambda *_: self._fill())
        ui.modelList.itemClicked.connect(self._clicked)
        ui.modelList.itemActivated.connect(self._clicked)
        self._storage = Fold(ui.storageFold, ui.storageBody)
        # Weights are a file or a folder, and no dialog asks for both.
        self._menu = qt.QMenu(ui.addWeightsButton)
        self._menu.addAction(_("File: MedSAM or quantized model...")).triggered.connect(lambda *_: self._add_file())
        self._menu.addAction(_("Folder: nnU-Net results or MedSAM...")).triggered.connect(lambda *_: self._add_folder())
        ui.addWeightsButton.setMenu(self._menu)
        ui.downloadButton.clicked.connect(lambda *_: presenter.download())
        ui.openCacheButton.clicked.connect(lambda *_: presenter.open_cache())
        ui.clearCacheButton.clicked.connect(lambda *_: presenter.clear_cache())
        self._open(False)

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui = self._ui
        if (shown.models, shown.model) != (self._lines, self._chosen):
            self._lines, self._chosen = shown.models, shown.model
            self._fill()
        line = next((one for one in shown.models if one.spec == shown.model), None)
        self._title.text = line.title if line else _("Choose a model")
        ui.modelButton.setAccessibleName(_("Model: {title}").format(title=self._title.text))
        show_text(self._facts, facts_of(line, licence=False).replace(DOT, "\n", 1) if line else "")
        self._ui.modelButton.toolTip = facts_of(line) if line else _("Choose a model")
        needs = line.needs if line is not None and not line.present else ""
        show_text(ui.modelNeedsLabel, needs)
        show_action(ui.addWeightsButton, shown.actions.get("add_weights"))
        show_action(ui.downloadButton, shown.actions.get("download"))
        ui.downloadButton.setVisible(line is not None and line.can_download and not line.present)
        show_text(ui.cacheLabel, shown.cache or _("Nothing is kept yet."))
        show_action(ui.openCacheButton, shown.actions.get("open_cache"), text=False)
        show_action(ui.clearCacheButton, shown.actions.get("clear_cache"), text=False)

    def _open(self, opened: bool) -> None:
        self._ui.modelChooser.setVisible(bool(opened))
        self._arrow.setArrowType(qt.Qt.DownArrow if opened else qt.Qt.RightArrow)
        if opened:
            self._fill()
            self._ui.modelSearch.setFocus()

    def _fill(self) -> None:
        words = self._ui.modelSearch.text.lower().split()
        tree = self._ui.modelList
        tree.clear()
        found = [line for line in self._lines if all(word in line.text().lower() for word in words)]
        for line in found:
            title, facts = qt.QTreeWidgetItem([line.title]), qt.QTreeWidgetItem([facts_of(line)])
            for item in (title, facts):
                item.setData(0, SPEC_ROLE, line.spec)
                item.setToolTip(0, line.needs or facts_of(line))
                item.setSizeHint(0, qt.QSize(0, row_height(tree)))
                tree.addTopLevelItem(item)
            font = title.font(0)
            font.setBold(True)
            title.setFont(0, font)
            text, base = tree.palette.color(qt.QPalette.Text), tree.palette.color(qt.QPalette.Base)
            facts.setForeground(0, qt.QBrush(style.mixed(text, base, style.QUIET)))
            facts.setFlags(qt.Qt.ItemIsEnabled)
            if line.spec == self._chosen:
                tree.setCurrentItem(title)
        tree.setFixedHeight(2 * row_height(tree) * min(max(len(found), 1), LINES) + 6)

    def _clicked(self, item: Any, column: int = 0) -> None:
        spec = item.data(0, SPEC_ROLE)
        self._ui.modelButton.setChecked(False)
        if spec != self._chosen:
            self._presenter.model_chosen(spec)

    def _add_file(self) -> None:
        path = qt.QFileDialog.getOpenFileName(
            self._ui.addWeightsButton,
            _("Weights of a model"),
            "",
            _("Weights (*.pth *.pt *.safetensors);;All files (*)"),
        )
        if path:
            self._presenter.add_weights(path)

    def _add_folder(self) -> None:
        path = qt.QFileDialog.getExistingDirectory(self._ui.addWeightsButton, _("Folder of a model"))
        if path:
            self._presenter.add_weights(path)


def facts_of(line: ModelLine, *, licence: bool = True) -> str:
    """Task, modality, size, seconds and licence in one line."""
    parts = [line.task, line.modality, line.size, line.seconds, line.licence if licence else ""]
    if not line.present:
        parts.append(_("not on this machine"))
    # Broken between the parts, never inside "7.7 MB".
    return DOT.join(part.replace(" ", "\N{NO-BREAK SPACE}", 2) for part in parts if part)
