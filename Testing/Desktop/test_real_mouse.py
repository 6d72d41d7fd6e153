"""The window on a screen (Xvfb), used from outside by a real mouse of X (xdotool): nothing of Qt is called.

Where the X server is not installed this is skipped; `.ci/run` installs it where it may. A server that is there and does
not work is a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")
MISSING = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed (apt install xvfb xdotool)"
)

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
SCREEN = (1280, 800)
LIVER = ((0.19, 0.15), (0.54, 0.70))
UP, DOWN = 4, 5
"""Buttons of the mouse that are its wheel."""


class Screen:
    """An X server with the window on it, and a hand at its mouse."""

    def __init__(self, display: str, told: Path, window: subprocess.Popen) -> None:
        self.display, self._told, self._window = display, told, window

    @property
    def told(self) -> dict[str, Any]:
        """What the window said last."""
        return json.loads(self._told.read_text(encoding="utf-8")) if self._told.is_file() else {}

    def until(self, so: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until the window says that it is so."""
        end = time.monotonic() + PATIENCE
        while True:
            told = self.told
            if told and so(told):
                return told
            assert not told.get("problem"), told["problem"]
            assert self._window.poll() is None, f"the window ended before {what}"
            assert time.monotonic() < end, f"{what} did not come: {told}"
            time.sleep(0.1)

    def mouse(self, *words: object) -> None:
        """One go of the mouse."""
        environment = {**os.environ, "DISPLAY": self.display}
        subprocess.run(["xdotool", *map(str, words)], env=environment, check=True, timeout=20)

    def at(self, name: str, x: float = 0.5, y: float = 0.5) -> tuple[int, int]:
        """A place of a widget on the screen."""
        left, top, width, height = self.told["places"][name]
        return round(left + x * width), round(top + y * height)

    def click(self, name: str, x: float = 0.5, y: float = 0.5) -> None:
        """Go there and click."""
        self.mouse("mousemove", *self.at(name, x, y), "sleep", 0.15, "click", 1)

    def push(self, name: str) -> None:
        """Turn the wheel over the panel until a button is in sight, then click on it."""
        self.until(lambda told: name in told["enabled"] and told["places"][name], name)
        for _ in range(60):
            _, top, _, height = self.told["places"][name]
            _, first, _, high = self.told["places"]["panel"]
            if first <= top and top + height <= first + high:
                break
            self.mouse("mousemove", *self.at("panel", 0.01, 0.5), "click", UP if top < first else DOWN)
            time.sleep(0.3)
        self.click(name)

    def take(self, name: str) -> None:
        """A picture of the screen, to MEDQUANT_SCREENSHOTS or beside what the window tells."""
        folder = Path(os.environ.get("MEDQUANT_SCREENSHOTS", self._told.parent / "screenshots"))
        folder.mkdir(parents=True, exist_ok=True)
        wanted = self._told.with_suffix(".wanted")
        wanted.write_text(str(folder / f"{name}.png"), encoding="utf-8")
        self.until(lambda _: not wanted.exists(), "the picture")

    def drag(self, name: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press, move in steps, let go."""
        steps = [(start[0] + (end[0] - start[0]) * n / 5, start[1] + (end[1] - start[1]) * n / 5) for n in range(6)]
        words: list[object] = ["mousemove", *self.at(name, *start), "sleep", 0.2, "mousedown", 1]
        for step in steps:
            words += ["mousemove", *self.at(name, *step), "sleep", 0.05]
        self.mouse(*words, "mouseup", 1)


@pytest.fixture
def screen(test_data: Path, cache: Path, tmp_path: Path) -> Iterator[Screen]:
    """The window at 0, 0 of an X server of its own."""
    reading, writing = os.pipe()
    size = f"{SCREEN[0]}x{SCREEN[1]}x24"
    with (tmp_path / "xvfb.txt").open("w") as said:
        command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp"]
        server = subprocess.Popen(command, pass_fds=(writing,), stdout=said, stderr=said)
    os.close(writing)
    with os.fdopen(reading) as stream:
        number = stream.readline().strip()
    assert number, f"Xvfb does not start: {(tmp_path / 'xvfb.txt').read_text()[-1000:]}"
    told, words = tmp_path / "told.json", (tmp_path / "window.txt").open("w")
    environment = {
        **os.environ,
        "DISPLAY": f":{number}",
        "QT_QPA_PLATFORM": "xcb",
        "PYTHONPATH": str(CHECKOUT / "python_lib"),
        "MEDQUANT_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",  # as for the window off screen
    }
    program = [sys.executable, str(Path(__file__).with_name("told_window.py")), str(told), str(tmp_path / "settings")]
    window = subprocess.Popen(
        [*program, str(test_data / "ct_abdomen_dicom")], env=environment, stdout=words, stderr=words
    )
    try:
        yield Screen(f":{number}", told, window)
    finally:
        window.terminate()
        try:
            window.wait(20)
        except subprocess.TimeoutExpired:
            window.kill()
        server.terminate()
        server.wait(20)
        words.close()


def test_by_a_real_mouse_from_a_scan_to_a_comparison(screen: Screen) -> None:
    screen.until(lambda told: told["places"].get("entry"), "the window")
    screen.click("entry")
    screen.until(lambda told: told["open"] and "quantizeButton" in told["enabled"], "the scan")
    before = screen.told["number"]
    screen.mouse("mousemove", *screen.at("left"), "click", UP, "click", UP)
    screen.until(lambda told: told["number"] == before + 2, "two slices on")
    screen.mouse("click", DOWN, "click", DOWN)
    screen.until(lambda told: told["number"] == before, "two slices back")

    screen.push("bits4Button")
    screen.push("quantizeButton")
    screen.until(lambda told: told["quantized"] and not told["busy"], "the quantized model")
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

    screen.push("segmentButton")
    told = screen.until(lambda told: told["paired"] and told["table"] and told["headline"], "the comparison")
    screen.take("x-2-compared")
    assert "Dice" in told["headline"]
