"""A screen (an X server of its own, Xvfb) with the window on it, and hands from outside: X's mouse and keys (xdotool).

What the window tells comes from `told_window.py`; nothing of Qt is called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
LEAVING = 20.0
SIZE = (1280, 800)
TITLE = 8
"""Pixels from the top of a section to the middle of its title."""
LEFT, UP, DOWN = 1, 4, 5
"""Buttons of the mouse; two are its wheel."""


class Screen:
    """The window is told to start; from then on all goes by mouse and keys. `folder` is for what it tells and says."""

    def __init__(self, display: str, environment: dict[str, str], folder: Path) -> None:
        self._environment = {**os.environ, **environment, "DISPLAY": display, "QT_QPA_PLATFORM": "xcb"}
        self._told, self._said, self._settings = (folder / name for name in ("told.json", "window.txt", "settings"))
        self._window: subprocess.Popen | None = None

    # -- the window

    def start(self, *recent: Path) -> None:
        """Start the window; `recent` are offered as opened last, else those that it remembers."""
        self._told.unlink(missing_ok=True)
        program = [sys.executable, str(Path(__file__).with_name("told_window.py")), self._told, self._settings, *recent]
        with self._said.open("a") as said:
            self._window = subprocess.Popen(list(map(str, program)), env=self._environment, stdout=said, stderr=said)

    def ended(self) -> int:
        """Wait until the window has ended by itself; its exit code."""
        return self._window.wait(PATIENCE)

    def close(self) -> None:
        """End the window, whatever it does."""
        if self._window is None or self._window.poll() is not None:
            return
        self._window.terminate()
        try:
            self._window.wait(LEAVING)
        except subprocess.TimeoutExpired:
            self._window.kill()

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
            assert self._window.poll() is None, f"the window ended before {what}: {self._said.read_text()[-2000:]}"
            assert time.monotonic() < end, f"{what} did not come: {told}"
            time.sleep(0.1)

    def take(self, name: str) -> None:
        """A picture of the screen, to MEDQUANT_SCREENSHOTS or beside what the window tells."""
        folder = Path(os.environ.get("MEDQUANT_SCREENSHOTS", self._told.parent / "screenshots"))
        folder.mkdir(parents=True, exist_ok=True)
        wanted = self._told.with_suffix(".wanted")
        wanted.write_text(str(folder / f"{name}.png"), encoding="utf-8")
        self.until(lambda _: not wanted.exists(), "the picture")

    # -- the mouse

    def mouse(self, *words: object) -> None:
        """One go of mouse or keys."""
        subprocess.run(["xdotool", *map(str, words)], env=self._environment, check=True, timeout=60)

    def at(self, name: str, x: float = 0.5, y: float = 0.5) -> tuple[int, int]:
        """A place of a widget on the screen."""
        left, top, width, height = self.told["places"][name]
        return round(left + x * width), round(top + y * height)

    def click(self, name: str, x: float = 0.5, y: float = 0.5) -> None:
        """Go there and click."""
        self.mouse("mousemove", *self.at(name, x, y), "sleep", 0.15, "click", LEFT)

    def drag(self, name: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press, move in steps, let go."""
        steps = [(start[0] + (end[0] - start[0]) * n / 5, start[1] + (end[1] - start[1]) * n / 5) for n in range(6)]
        words: list[object] = ["mousemove", *self.at(name, *start), "sleep", 0.2, "mousedown", LEFT]
        for step in steps:
            words += ["mousemove", *self.at(name, *step), "sleep", 0.05]
        self.mouse(*words, "mouseup", LEFT)

    def reach(self, name: str) -> None:
        """Turn the wheel over the panel until a widget is in sight and stays where it is."""
        for _ in range(100):
            _, top, _, height = place = self.told["places"][name]
            _, first, _, high = self.told["places"]["panel"]
            if first <= top and top + min(height, high) <= first + high:
                time.sleep(0.3)
                if self.told["places"][name] == place:
                    return
                continue
            self.mouse("mousemove", *self.at("panel", 0.01, 0.5), "click", UP if top < first else DOWN)
            time.sleep(0.3)
        raise AssertionError(f"{name} is nowhere in sight: {self.told['places']}")

    def push(self, name: str) -> None:
        """Click on a button of the panel, or a row, once that can be done."""
        self.until(lambda told: name in told["enabled"] and told["places"][name], name)
        self.reach(name)
        self.click(name)

    def unfold(self, section: str) -> None:
        """Open a section of the panel by its title."""
        if section not in self.told["unfolded"]:
            self.reach(section)
            left, top = self.at(section, 0.3, 0.0)
            self.mouse("mousemove", left, top + TITLE, "sleep", 0.15, "click", LEFT)
            self.until(lambda told: section in told["unfolded"], section)

    # -- the keys

    def press(self, *keys: object) -> None:
        """Keys at once, as X calls them: "ctrl+s". There is no window manager to give them to the window in front."""
        self.mouse("windowfocus", self.told["front"], "sleep", 0.2, "key", *keys)

    def answer(self, path: Path) -> None:
        """Write a path into the file dialog that opens, and take it."""
        self.until(lambda told: told["places"].get("fileNameEdit"), "a file dialog")
        self.click("fileNameEdit")
        self.press("ctrl+a")
        self.mouse("type", "--delay", 5, path)
        self.until(lambda told: told["written"] == str(path), "the path written")
        self.press("Return")
        self.until(lambda told: "fileNameEdit" not in told["places"], "the dialog's end")


@contextmanager
def new_screen(folder: Path, **environment: str) -> Iterator[Screen]:
    """An X server; a window that starts there has this environment. Both end with the context."""
    reading, writing = os.pipe()
    size = f"{SIZE[0]}x{SIZE[1]}x24"
    with (folder / "xvfb.txt").open("w") as said:
        command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp"]
        server = subprocess.Popen(command, pass_fds=(writing,), stdout=said, stderr=said)
    os.close(writing)
    with os.fdopen(reading) as stream:
        number = stream.readline().strip()
    assert number, f"Xvfb does not start: {(folder / 'xvfb.txt').read_text()[-1000:]}"
    screen = Screen(f":{number}", {"PYTHONPATH": str(CHECKOUT / "python_lib"), **environment}, folder)
    try:
        yield screen
    finally:
        screen.close()
        server.terminate()
        server.wait(LEAVING)
