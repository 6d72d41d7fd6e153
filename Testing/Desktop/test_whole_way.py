"""From a DICOM folder to a comparison, by clicks alone, with the real engine. A picture of each step is written to
MEDQUANT_SCREENSHOTS, or to the test's own folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")

LIVER = ((0.19, 0.15), (0.54, 0.70))
"""Where a box around the liver begins and ends, as parts of the view."""


class Pictures:
    """Writes what the window looks like."""

    def __init__(self, window: object, hands: object, folder: Path) -> None:
        self.window, self.hands, self.folder = window, hands, folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> None:
        """A picture of the whole window, once everything is drawn."""
        self.hands.wait(0.3)
        assert self.window.grab().save(str(self.folder / f"{name}.png"))


@pytest.fixture
def pictures(whole_window, hands, tmp_path: Path) -> Pictures:
    """Takes a picture of a step."""
    return Pictures(whole_window, hands, Path(os.environ.get("MEDQUANT_SCREENSHOTS", tmp_path / "screenshots")))


def press(button, hands) -> None:
    """A click of the mouse on a button, which must be there and pressable."""
    assert button.isVisible(), button.objectName
    assert button.isEnabled(), f"{button.objectName}: {button.toolTip}"
    hands.click(button, 0.5, 0.5)


def test_from_a_dicom_folder_to_a_comparison(whole_window, hands, pictures, test_data: Path, tmp_path: Path) -> None:
    import slicer
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED
    from MedQuantSlicerLib.state import RESTING

    window, ui = whole_window, whole_window.frame.module.ui
    presenter = window.frame.presenter
    rested = lambda: presenter.shown.state in RESTING and presenter.shown.waiting is None  # noqa: E731
    pictures.take("0-welcome")

    window.documents.open_path(test_data / "ct_abdomen_dicom")
    hands.until(lambda: window.views.volume is not None and presenter.shown.actions["quantize"].enabled)
    before = slicer.util.arrayFromVolume(window.views.volume).copy()
    pictures.take("1-scan")

    press(ui.quantizeButton, hands)
    hands.until(lambda: presenter.shown.waiting is not None)
    hands.until(lambda: presenter.shown.quantized, 120)
    assert "bits/weight" in presenter.shown.quantized
    pictures.take("2-quantized")

    press(ui.placeBoxButton, hands)
    for place in LIVER:
        hands.click(window.views.left, *place)
    hands.until(lambda: presenter.shown.actions["segment"].enabled)
    pictures.take("3-box")

    press(ui.segmentButton, hands)
    hands.until(lambda: window.views.paired)
    hands.until(lambda: presenter.shown.table is not None and rested(), 120)
    hands.wait(0.5)
    pictures.take("4-compared")
    volume = window.views.volume
    for kind in (FP32, QUANTIZED):
        node = masks.segmentation_of(kind, volume)
        assert masks.labels_on(node, volume)[0].any()
        assert node.GetDisplayNode().GetVisibility()
    assert ui.headlineLabel.isVisible()
    assert ui.headlineLabel.text.startswith("Dice .9")
    head, page = ui.headlineLabel.mapTo(window, ui.headlineLabel.rect.topLeft()).y(), window.height
    assert 0 < head < page, "the result is scrolled into sight"
    assert max(window.views.slider.profile) > 0

    press(ui.worstButton, hands)
    worst = max(range(20), key=lambda n: window.views.slider.profile[n])
    assert window.views.left.place()[0][0] == window.views.right.place()[0][0] == worst
    press(window.bar.difference, hands)
    hands.until(lambda: masks.segmentation_of(DIFFERENCE, volume) is not None)
    press(window.bar.three_d, hands)
    hands.until(lambda: not window.views.panes["MedQuant3D"].view.words)
    pictures.take("5-difference")
    window.resize(2560, 1440)
    pictures.take("6-large")
    window.set_theme("light")
    pictures.take("7-light")
    window.set_theme("dark")
    window.resize(1280, 800)

    path = tmp_path / "case.mrb"
    window.documents.save_session(path)
    hands.until(lambda: window.notice.said.startswith("Saved"))
    slicer.mrmlScene.Clear(False)
    hands.until(lambda: window.views.volume is None)
    window.documents.open_path(path)
    hands.until(lambda: window.views.volume is not None)
    pictures.take("8-reopened")
    volume = window.views.volume
    assert (slicer.util.arrayFromVolume(volume) == before).all()
    assert masks.labels_on(masks.segmentation_of(QUANTIZED, volume), volume)[0].any()


def test_scrolling_stays_smooth_while_the_engine_works(whole_window, hands, test_data: Path) -> None:
    """The engine has a process of its own: no step of the wheel waits for it."""
    import time

    window, presenter = whole_window, whole_window.frame.presenter
    window.documents.open_path(test_data / "ct_abdomen_dicom")
    hands.until(lambda: window.views.volume is not None and presenter.shown.actions["quantize"].enabled)
    window.views.show_pair("", "")
    press(window.frame.module.ui.quantizeButton, hands)
    slowest, left = 0.0, window.views.left
    for turn in range(30):
        began = time.perf_counter()
        hands.wheel(left, 1 if turn % 10 < 5 else -1)
        slowest = max(slowest, time.perf_counter() - began)
    print(f"slowest step {slowest * 1000:.0f} ms, 50 ms of waiting included")
    presenter.cancel()
    hands.until(lambda: presenter.shown.waiting is None)
    assert slowest < 2.0, "the window stood still"
