"""The section "Scan": which one, what it is, and in which window it is shown."""

from __future__ import annotations

from typing import Any

from MedQuantSlicerLib import style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Shown, State
from MedQuantSlicerLib.widgets import show_text

WINDOWS = (
    ("", _("Automatic")),
    ("soft", _("Soft tissue (40, 400)")),
    ("lung", _("Lung (\N{MINUS SIGN}600, 1500)")),
    ("bone", _("Bone (400, 1800)")),
    ("brain", _("Brain (40, 80)")),
)


class ScanSection:
    """`open_sample()` brings the sample CT into the scene."""

    def __init__(self, ui: Any, presenter: Any, host: Any, open_sample: Any) -> None:
        self._ui = ui
        for key, text in WINDOWS:
            ui.windowSelector.addItem(text, key)
        ui.windowSelector.activated.connect(lambda *_: host.set_window(WINDOWS[ui.windowSelector.currentIndex][0]))
        ui.sampleButton.clicked.connect(lambda *_: open_sample())
        style.mark(ui.scanLabel, "quiet")

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui, empty = self._ui, shown.state is State.NO_VOLUME
        ui.emptyWidget.setVisible(empty)
        show_text(ui.scanLabel, shown.scan)
        # Windows in Hounsfield units mean nothing for other scans.
        ui.windowWidget.setVisible(not empty and shown.scan.startswith("CT"))
        style.mark(ui.sampleButton, "primary", empty)
