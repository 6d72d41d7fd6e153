"""From a DICOM folder to a comparison and back from a session, with the real engine, by mouse and keys alone: every
button is scrolled to and clicked where it is seen, every file dialog is filled in. A picture of each step is written to
MEDQUANT_SCREENSHOTS, or to the test's own folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")

MOST_CLICKS = 7
BUSY = 120.0
"""How long a step of the engine may take on a busy machine."""


class Way:
    """The window, the hands, and what both are asked about; takes the pictures."""

    def __init__(self, window: object, hands: object, folder: Path) -> None:
        self.window, self.hands, self.folder = window, hands, folder
        self.ui, self.presenter = window.frame.module.ui, window.frame.presenter
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def shown(self):
        """What the panel shows."""
        return self.presenter.shown

    def take(self, name: str) -> None:
        """A picture of the whole window, once everything is drawn."""
        self.hands.wait(0.2)
        assert self.window.grab().save(str(self.folder / f"{name}.png"))

    def rested(self) -> bool:
        """Whether nothing runs any more."""
        return self.shown.waiting is None

    def mask(self, kind: str) -> np.ndarray:
        """The mask that lies in the scene."""
        from MedQuantSlicerLib import masks

        volume = self.window.views.volume
        return masks.labels_on(masks.segmentation_of(kind, volume), volume)[0] > 0


@pytest.fixture(scope="module")
def way(application, hands, reader, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """One window with the real engine for the whole way: each test goes on where the one before it stopped."""
    from PySide6.QtCore import QSettings

    shown_window = pytest.importorskip("Testing.Desktop.conftest").shown_window
    folder = tmp_path_factory.mktemp("way")
    windows = shown_window(hands, QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat), reader)
    yield Way(next(windows), hands, Path(os.environ.get("MEDQUANT_SCREENSHOTS", folder / "screenshots")))
    next(windows, None)
