"""The section "Layers": which of them break first, and those that the user wants precise."""

from __future__ import annotations

from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.colormap import legend
from MedQuantSlicerLib.heatmap import HeatmapTree, breakable, worst_of
from MedQuantSlicerLib.histograms import HistogramPair
from MedQuantSlicerLib.layer_words import OF_VIEW
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Shown
from MedQuantSlicerLib.widgets import Fold, show_action, show_text

FLOATING_POINT = 32


class LayersSection:
    """Sensitivity."""

    def __init__(self, ui: Any, presenter: Any) -> None:
        self._ui = ui
        self._heatmap = HeatmapTree(ui.heatmap, presenter.layer_chosen)
        self._types = HeatmapTree(ui.typesMap, lambda _name: None, _("All layers of one type"))
        ui.typesMap.setSelectionMode(qt.QAbstractItemView.NoSelection)
        style.mark(ui.layersLabel, "quiet")
        style.mark(ui.wishesLabel, "quiet")
        style.mark(ui.agreementLabel, "quiet")
        style.mark(ui.againstLabel, "quiet")
        for small in (ui.weightsLabel, ui.inputsLabel):
            style.mark(small, "small")
        pair = (ui.weightsPicture, ui.weightsLabel), (ui.inputsPicture, ui.inputsLabel)
        self._histograms = HistogramPair(ui.histograms, *pair)
        self._view = Fold(ui.viewFold, ui.viewBody)
        ui.worstLayersLabel.linkActivated.connect(lambda name: self._find(presenter, name))
        ui.sensitivityButton.clicked.connect(lambda *_: presenter.find_sensitivity())
        ui.keepButton.clicked.connect(lambda *_: presenter.keep_precise())
        ui.keepFloatButton.clicked.connect(lambda *_: presenter.keep_precise("", FLOATING_POINT))
        ui.forgetButton.clicked.connect(lambda *_: presenter.forget_wishes())

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui, measured = self._ui, shown.heatmap is not None and bool(shown.heatmap.layers)
        largest = shown.heatmap.largest if measured else 0.0
        self._heatmap.show(shown.heatmap, largest)
        self._types.show(shown.heatmap.types if measured else None, largest)
        show_action(ui.sensitivityButton, shown.actions.get("find_sensitivity"))
        link = ui.worstLayersLabel.palette.color(qt.QPalette.Link).name()
        show_text(ui.worstLayersLabel, worst_of(shown.heatmap, link) if measured and shown.heatmap.worst else "")
        show_text(ui.layersLabel, OF_VIEW[shown.heatmap.view if measured else shown.options.view].lead)
        show_text(ui.legendLabel, legend(largest, OF_VIEW[shown.heatmap.view].legend) if measured else "")
        show_text(ui.againstLabel, shown.heatmap.against if measured else "")
        show_text(ui.agreementLabel, "\n".join(shown.heatmap.agreement) if measured else "")
        self._histograms.show(shown.layer)
        show_text(ui.layerLabel, layer_of(shown) if shown.layer else _("Click on a layer.") if measured else "")
        keep = shown.actions.get("keep_precise")
        for button in (ui.keepButton, ui.keepFloatButton):
            button.setVisible(measured)
            show_action(button, keep, text=button is ui.keepButton)
        ui.keepFloatButton.setVisible(measured and (shown.layer is None or shown.layer.kept is None))
        show_text(ui.wishesLabel, wishes_of(shown))
        show_action(ui.forgetButton, shown.actions.get("forget_wishes"), text=False)
        ui.forgetButton.setVisible(bool(shown.overrides))

    def _find(self, presenter: Any, name: str) -> None:
        self._heatmap.find(name)
        presenter.layer_chosen(name)


def layer_of(shown: Shown) -> str:
    """What is known of the layer that was clicked, with a name that fits the panel."""
    return shown.layer.text.replace(shown.layer.name, breakable(shown.layer.name), 1)


def wishes_of(shown: Shown) -> str:
    """The layers that are kept precise, in a line."""
    if not shown.overrides:
        return ""
    names = [
        f"{breakable(name)} ({_('float') if bits >= FLOATING_POINT else _('{bits} bits').format(bits=bits)})"
        for name, bits in shown.overrides
    ]
    return _("Kept precise the next time you quantize: {names}").format(names=", ".join(names))
