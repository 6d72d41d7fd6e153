"""From a DICOM folder to a comparison and back from a session, with the real engine, by mouse and keys alone: every
button is scrolled to and clicked where it is seen, every file dialog is filled in. A picture of each step is written to
MEDQUANT_SCREENSHOTS, or to the test's own folder."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")

LIVER = ((0.19, 0.15), (0.54, 0.70))
"""Where a box around the liver begins and ends, as parts of the view."""
MOST_CLICKS = 7
BUSY = 240.0
"""How long a step of the engine may take on a busy machine, in seconds."""
SMOOTH = 1.0
"""How long a step of the wheel may take there: where the window waited for the engine it would be many seconds."""


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

    def rest(self) -> None:
        """Wait until nothing runs any more and nothing went wrong."""
        self.hands.until(lambda: self.shown.waiting is None, BUSY)
        assert self.shown.problem is None, self.shown.problem.text

    def can(self, verb: str) -> None:
        """Wait until something can be pressed."""
        self.hands.until(lambda: self.shown.actions[verb].enabled, BUSY)

    def mask(self, kind: str) -> np.ndarray:
        """The mask that lies in the scene, as yes and no."""
        from MedQuantSlicerLib import masks

        volume = self.window.views.volume
        return masks.labels_on(masks.segmentation_of(kind, volume), volume)[0] > 0


def test_by_mouse_and_keys_from_a_dicom_folder_to_a_session_and_on(
    whole_window, hands, test_data: Path, tmp_path: Path
) -> None:
    way = Way(whole_window, hands, Path(os.environ.get("MEDQUANT_SCREENSHOTS", tmp_path / "screenshots")))
    way.take("0-welcome")
    hands.clicks = 0
    open_the_series(way, test_data / "ct_abdomen_dicom")
    quantize_to_4_bits(way)
    place_a_box(way)
    clicks = hands.clicks
    drag_a_handle(way)
    hands.clicks = clicks
    segment(way)
    assert hands.clicks <= MOST_CLICKS, "from the start to the comparison"
    read_the_tables(way)
    look_at_the_difference(way)
    save_the_report(way, tmp_path / "report.html")
    keep_a_layer_precise(way)
    export(way, tmp_path / "exported")
    save_and_reopen(way, tmp_path / "case.mrb")
    go_on(way)


def open_the_series(way: Way, folder: Path) -> None:
    from PySide6.QtWidgets import QPushButton

    button = way.window.welcome.findChild(QPushButton, "openFolder")
    way.hands.answering(folder, lambda: way.hands.push(button))
    way.hands.until(lambda: way.window.views.volume is not None)
    way.can("quantize")
    assert way.window.views.volume.GetImageData().GetDimensions() == (512, 512, 20)
    way.take("1-scan")


def quantize_to_4_bits(way: Way) -> None:
    """While the engine works, the wheel goes on turning."""
    way.hands.push(way.ui.bits4Button)
    way.hands.push(way.ui.quantizeButton)
    way.hands.until(lambda: way.shown.waiting is not None)
    spent, left = [], way.window.views.left
    while way.shown.waiting is not None and len(spent) < 40:
        before, began = left.pictures, time.perf_counter()
        way.hands.turn(left, 1 if len(spent) % 10 < 5 else -1)
        way.hands.until(lambda before=before: left.pictures > before)
        spent.append(time.perf_counter() - began)
        way.hands.wait(0.05)
    assert spent, "the engine was done before the wheel turned"
    assert sorted(spent)[len(spent) // 2] < SMOOTH, "the window stood still"
    way.rest()
    assert re.search(r"4\.\d bits/weight", way.shown.quantized)
    way.take("2-quantized")


def place_a_box(way: Way) -> None:
    from MedQuantSlicerLib import boxes

    way.hands.push(way.ui.placeBoxButton)
    for place in LIVER:
        way.hands.click(way.window.views.left, *place)
    way.can("segment")
    assert len(boxes.boxes_of(way.window.views.volume)) == 1
    way.take("3-box")


def drag_a_handle(way: Way) -> None:
    """The right side of the box follows its handle; the others stay."""
    from MedQuantSlicerLib import boxes

    view = way.window.views.left
    (node,) = boxes.boxes_of(way.window.views.volume)
    before = bounds_of(node)
    middle = (LIVER[0][1] + LIVER[1][1]) / 2
    beside = 4 / view.width  # on the outline itself the outline would be taken
    way.hands.drag(view, (LIVER[1][0] + beside, middle), (LIVER[1][0] + 0.04 + beside, middle))
    way.hands.wait(0.2)
    after, width = bounds_of(node), view.node.GetFieldOfView()[0]
    moved = [abs(a - b) for a, b in zip(after, before, strict=True)]
    assert sorted(moved)[-1] == pytest.approx(0.04 * width, rel=0.2)
    assert sorted(moved)[-2] < 0.01 * width, "only one side has moved"
    way.take("4-dragged")


def bounds_of(node) -> list[float]:
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return bounds


def segment(way: Way) -> None:
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    way.hands.push(way.ui.segmentButton)
    way.hands.until(lambda: way.shown.table is not None and way.window.views.paired, BUSY)
    way.rest()
    way.hands.wait(0.3)
    way.take("5-compared")
    assert way.mask(FP32).any() and way.mask(QUANTIZED).any()
    assert way.ui.headlineLabel.isVisible()
    top = way.ui.headlineLabel.mapTo(way.window, way.ui.headlineLabel.rect.topLeft()).y()
    assert 0 < top < way.window.height, "the result is scrolled into sight"


def read_the_tables(way: Way) -> None:
    """What stands in the cell is the Dice of the masks that lie in the scene."""
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    fp32, quantized = way.mask(FP32), way.mask(QUANTIZED)
    dice = 2 * (fp32 & quantized).sum() / (fp32.sum() + quantized.sum())
    cells = [text for row in rows_of(way.ui.compareTable) for text in row[1:]]
    numbers = [float(text) for text in cells if re.fullmatch(r"0?\.\d+", text)]
    assert any(number == pytest.approx(dice, abs=0.0006) for number in numbers), (dice, cells)
    costs = " ".join(text for row in rows_of(way.ui.costTable) for text in row)
    assert "MB" in costs and re.search(r"\d (s|ms)\b", costs), costs


def rows_of(tree) -> list[list[str]]:
    """The texts of a table that is seen."""
    assert tree.isVisible()
    items = [tree.topLevelItem(number) for number in range(tree.topLevelItemCount)]
    return [[item.text(place) for place in range(tree.columnCount)] for item in items]


def look_at_the_difference(way: Way) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED

    window, volume = way.window, way.window.views.volume
    way.hands.push(way.ui.worstButton)
    counts = (way.mask(FP32) != way.mask(QUANTIZED)).sum(axis=(1, 2))
    shown = window.views.left.place()[0][0]
    assert shown == window.views.right.place()[0][0]
    assert counts[shown] > 0
    way.hands.push(window.bar.difference)
    way.hands.until(lambda: masks.segmentation_of(DIFFERENCE, volume) is not None)
    way.hands.push(window.bar.three_d)
    way.hands.until(lambda: not window.views.panes["MedQuant3D"].view.words, BUSY)
    way.take("6-difference")
    window.resize(2560, 1440)
    way.take("7-large")
    window.set_theme("light")
    way.take("8-light")
    window.set_theme("dark")
    window.resize(1280, 800)
    way.hands.wait(0.3)


def save_the_report(way: Way, path: Path) -> None:
    way.hands.answering(path, lambda: way.hands.push(way.ui.reportButton))
    way.hands.until(lambda: way.shown.waiting is None and path.is_file(), BUSY)
    page = path.read_text(encoding="utf-8")
    assert "not for clinical use" in page.lower()
    assert "4-bit" in page and "Dice" in page
    assert page.count("<img") + page.count("<svg") >= 3, "the slices that differ most"


def keep_a_layer_precise(way: Way) -> None:
    """The map of the masks fills cell by cell; a few are enough, then Cancel keeps what was measured."""
    ui, hands = way.ui, way.hands
    hands.unfold(ui.layersSection)
    hands.push(ui.viewFold)
    hands.reach(ui.viewSelector)
    hands.press(ui.viewSelector, "Down")  # from the quick estimate to one at a time
    assert way.shown.options.view == "one-at-a-time"
    hands.push(ui.sensitivityButton)

    def some() -> bool:
        found = way.shown.heatmap
        return found is not None and found.view == "one-at-a-time" and len(found.cells) >= 6

    hands.until(some, BUSY)
    hands.push(ui.sensitivityButton)
    way.rest()
    hands.reach(ui.heatmap)
    block = ui.heatmap.topLevelItem(0)
    hands.click_at(ui.heatmap.viewport(), ui.heatmap.visualItemRect(block).center())
    hands.press(ui.heatmap, "Right")  # unfolds it
    told = [item for item in layers_of(ui.heatmap) if not item.childCount() and any(map(item.text, (1, 2, 3)))]
    row = told[0]
    hands.click_at(ui.heatmap.viewport(), ui.heatmap.visualItemRect(row).center())
    name = way.shown.layer.name
    assert name.endswith(row.toolTip(0).splitlines()[0])
    assert name in ui.layerLabel.text and "Dice against FP32" in ui.layerLabel.text
    assert ui.histograms.isVisible() and ui.weightsLabel.text.startswith("Weights")
    hands.push(ui.keepButton)
    assert dict(way.shown.overrides) == {name: 8}
    assert name in ui.wishesLabel.text
    way.take("9-layers")
    hands.push(ui.forgetButton)  # else the next comparison would quantize anew
    assert not way.shown.overrides


def layers_of(tree) -> list:
    """Rows of the heatmap that can be seen without unfolding, from the top."""
    found = []
    for number in range(tree.topLevelItemCount):
        item = tree.topLevelItem(number)
        found += [item] + [item.child(n) for n in range(item.childCount()) if item.isExpanded()]
    return found


def export(way: Way, folder: Path) -> None:
    from medquant.models.registry import load_model

    folder.mkdir()
    way.hands.unfold(way.ui.exportSection)
    way.hands.reach(way.ui.folderEdit)
    way.hands.write(way.ui.folderEdit, str(folder))
    way.hands.push(way.ui.exportButton)
    way.hands.until(lambda: way.shown.exported, BUSY)
    way.rest()
    written = Path(way.shown.exported)
    assert written.parent == folder
    (model,) = written.glob("*.mq.safetensors")
    assert load_model(str(model)).report.effective_bits < 5
    way.take("10-exported")


def save_and_reopen(way: Way, path: Path) -> None:
    import slicer
    from MedQuantSlicerLib.host import FP32, QUANTIZED

    window, hands = way.window, way.hands
    scan = slicer.util.arrayFromVolume(window.views.volume).copy()
    before = way.mask(FP32), way.mask(QUANTIZED)
    hands.answering(path, lambda: hands.press(window, "S", "ControlModifier"))
    hands.until(lambda: window.notice.said.startswith("Saved"), BUSY)
    slicer.mrmlScene.Clear(False)
    hands.until(lambda: window.views.volume is None)
    hands.answering(path, lambda: hands.press(window, "O", "ControlModifier"))
    hands.until(lambda: window.views.volume is not None)
    hands.wait(0.3)
    way.take("11-reopened")
    assert (slicer.util.arrayFromVolume(window.views.volume) == scan).all()
    assert (way.mask(FP32) == before[0]).all() and (way.mask(QUANTIZED) == before[1]).all()


def go_on(way: Way) -> None:
    """After a session was opened the path goes on: the next press compares again."""
    if not way.shown.actions["segment"].enabled:
        way.can("quantize")
        way.hands.push(way.ui.quantizeButton)
        way.rest()
    way.can("segment")
    way.hands.unfold(way.ui.segmentSection)  # folded where the comparison came back with the session
    way.hands.push(way.ui.segmentButton)
    way.hands.until(lambda: way.shown.waiting is not None)
    way.rest()
    assert way.shown.table is not None
    way.take("12-again")
