"""The window on a screen, used from outside by a real mouse and real keys: from a scan to a comparison, to the layers
that break first, to what is written down, and on from there another day.

Where the X server is not installed this is skipped; `.ci/run` installs it where it may. A server that is there and does
not work is a failure.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen import DOWN, UP, Screen, new_screen

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")
MISSING = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed (apt install xvfb xdotool)"
)

LIVER = ((0.19, 0.15), (0.54, 0.70))
KEPT = ("masks", "titles", "table", "headline", "heat", "wishes")
"""What a session brings back."""


@pytest.fixture
def screen(cache: Path, tmp_path: Path) -> Iterator[Screen]:
    """With one thread for the engine, as for the window off screen."""
    with new_screen(tmp_path, MEDQUANT_CACHE=str(cache), OMP_NUM_THREADS="1") as made:
        yield made


def test_by_a_real_mouse_from_a_scan_to_a_session_that_comes_back(
    screen: Screen, test_data: Path, tmp_path: Path
) -> None:
    screen.start(test_data / "ct_abdomen_dicom")
    open_what_was_open_last(screen)
    turn_the_wheel(screen)
    quantize_to_4_bits(screen)
    draw_a_box(screen)
    compare(screen)
    save_the_report(screen, tmp_path / "report.html")
    find_what_breaks_first(screen)
    keep_one_layer_precise(screen)
    export(screen, tmp_path / "exported")
    leave_and_come_back(screen, tmp_path / "case.mrb")


def open_what_was_open_last(screen: Screen) -> None:
    screen.until(lambda told: told["places"].get("entry"), "the window")
    screen.click("entry")
    screen.until(lambda told: told["open"] and "quantizeButton" in told["enabled"], "the scan")


def turn_the_wheel(screen: Screen) -> None:
    before = screen.told["number"]
    screen.mouse("mousemove", *screen.at("left"), "click", UP, "click", UP)
    screen.until(lambda told: told["number"] == before + 2, "two slices on")
    screen.mouse("click", DOWN, "click", DOWN)
    screen.until(lambda told: told["number"] == before, "two slices back")


def quantize_to_4_bits(screen: Screen) -> None:
    screen.push("bits4Button")
    screen.push("quantizeButton")
    screen.until(lambda told: told["quantized"] and not told["busy"], "the quantized model")


def draw_a_box(screen: Screen) -> None:
    """Two clicks, and the right side dragged by its handle."""
    screen.push("placeBoxButton")
    for place in LIVER:
        time.sleep(0.3)
        screen.click("left", *place)
    (first,) = screen.until(lambda told: told["boxes"] and "segmentButton" in told["enabled"], "the box")["boxes"]
    middle, beside = (LIVER[0][1] + LIVER[1][1]) / 2, 4 / screen.told["places"]["left"][2]
    screen.drag("left", (LIVER[1][0] + beside, middle), (LIVER[1][0] + 0.05, middle))
    (dragged,) = screen.until(lambda told: told["boxes"] != [first], "the box dragged")["boxes"]
    screen.take("x-1-box")
    assert sum(abs(a - b) > 1.0 for a, b in zip(first, dragged, strict=True)) == 1, "one side of the box has moved"


def compare(screen: Screen) -> None:
    screen.push("segmentButton")
    told = screen.until(lambda told: told["paired"] and told["table"] and not told["busy"], "the comparison")
    screen.take("x-2-compared")
    assert "Dice" in told["headline"]
    assert len(set(told["masks"])) == 2, "FP32 and 4-bit masks, which are not the same"


def save_the_report(screen: Screen, path: Path) -> None:
    screen.push("reportButton")
    screen.answer(path)
    screen.until(lambda told: path.is_file() and not told["busy"], "the report")
    page = path.read_text(encoding="utf-8")
    dice, _comma, verdict = screen.told["headline"].partition(", ")
    assert verdict in page and dice.split()[1] in page
    assert "not for clinical use" in page.lower()


def find_what_breaks_first(screen: Screen) -> None:
    """The map fills, cell by cell."""
    screen.unfold("layersSection")
    screen.push("sensitivityButton")
    told = screen.until(lambda told: told["measured"] and not told["busy"], "the map")
    screen.take("x-3-layers")
    layers = {layer for layer, _bits, _effect in told["heat"]}
    assert len(told["heat"]) == 3 * len(layers) > 30, "each layer with 8, 4 and 2 bits"
    effects = [{bits: effect for name, bits, effect in told["heat"] if name == layer} for layer in layers]
    assert sum(one[2] > one[4] > one[8] for one in effects) > 0.9 * len(layers), "fewer bits, more change"


def keep_one_layer_precise(screen: Screen) -> None:
    """A click on the darkest cell, and what the panel then knows of the layer."""
    told = screen.told
    worst, bits, _effect = max(told["heat"], key=lambda cell: cell[2])
    assert bits == 2
    assert not told["layer"] and not told["wishes"]
    (row,) = [name for name in told["places"] if name.startswith("row ") and worst.startswith(f"{name[4:]}.")]
    screen.push(row)
    parts = {f"row {worst}", "weightsPicture", "inputsPicture"}  # pictures that come late move the button
    screen.until(lambda told: told["layer"] == worst and parts <= {*told["places"]}, "the layer with its pictures")
    screen.push("keepButton")
    screen.until(lambda told: told["wishes"] == {worst: 8}, "the wish")
    screen.take("x-4-kept")


def export(screen: Screen, folder: Path) -> None:
    folder.mkdir()
    screen.unfold("exportSection")
    screen.push("folderButton")
    screen.answer(folder)
    screen.push("exportButton")
    told = screen.until(lambda told: told["exported"] and not told["busy"], "the exported model")
    screen.take("x-5-exported")
    assert Path(told["exported"]).parent == folder
    assert [one.stat().st_size > 1e6 for one in Path(told["exported"]).glob("*.mq.safetensors")] == [True]


def leave_and_come_back(screen: Screen, session: Path) -> None:
    """Saved and exported, nothing is asked; the next day all of it is there."""
    screen.press("ctrl+s")
    screen.answer(session)
    saved = screen.until(lambda told: told["notice"].startswith("Saved"), "the session")
    screen.press("ctrl+q")
    assert screen.ended() == 0
    screen.start()
    screen.until(lambda told: told["places"].get("entry"), "the window once more")
    screen.click("entry")
    told = screen.until(
        lambda told: told["paired"] and told["headline"] and told["number"] == saved["number"],
        "the slice and the table",
    )
    screen.unfold("layersSection")
    screen.take("x-6-come-back")
    assert {name: told[name] for name in KEPT} == {name: saved[name] for name in KEPT}
    for there, before in zip(told["boxes"], saved["boxes"], strict=True):
        assert there == pytest.approx(before, abs=0.01)
