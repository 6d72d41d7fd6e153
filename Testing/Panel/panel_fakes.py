"""An engine that answers what a test tells it to, and a host without views, for the real panel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "choices": {"8": {"size": "4.3 MB"}, "4": {"size": "2.5 MB", "seconds": "48 ms a slice"}, "2": {"size": "1.6 MB"}}
}
QUANTIZED = {"handle": "q1", "bits": 4, "text": "2.5 MB, 4.2 bits/weight", "pieces": 8}


@dataclass
class Asked:
    """One request as the panel made it."""

    method: str
    params: dict[str, Any]
    callbacks: dict[str, Any]
    cancelled: bool = False

    answers_later: bool = False

    def cancel(self) -> None:
        """The user stopped it."""
        self.cancelled = True
        if not self.answers_later:
            self.stopped()

    def stopped(self) -> None:
        """The engine tells that it has stopped."""
        self.callbacks["on_error"]({"kind": "cancelled", "message": "Stopped."})


class FakeEngine:
    """Keeps requests until `answer` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        self.restarted = lambda: None

    def request(self, method: str, params=None, **callbacks) -> Asked:
        """As of `EngineProcess`."""
        self.asked.append(Asked(method, dict(params or {}), callbacks))
        return self.asked[-1]

    def last(self, method: str) -> Asked:
        """The last request of a method."""
        return next(one for one in reversed(self.asked) if one.method == method)

    def answer(self, method: str, result: dict[str, Any]) -> None:
        """Give the result of the last request of a method."""
        self.last(method).callbacks["on_result"](result)

    def path(self, name: str) -> str:
        """A file of the exchange."""
        return str(self.folder / name)

    def discard(self, name: str) -> None:
        """Of no concern here."""

    def tick(self) -> None:
        """Never hangs."""

    def close(self) -> None:
        """Nothing to end."""


def mask_of(engine: FakeEngine, name: str, labels: np.ndarray) -> dict[str, Any]:
    """Masks (k, j, i) as the engine hands them over, in a file of the exchange."""
    np.save(engine.folder / name, labels)
    return {"array": name, "labels": {"1": "liver"}, "bits": 4}


def a_table() -> dict[str, Any]:
    """A comparison of one structure."""

    def cells(*texts: str) -> list[dict[str, str]]:
        return [{"text": text} for text in texts]

    return {
        "columns": ["Dice", "time", "on disk"],
        "tooltips": ["overlap", "of the whole scan", "the file"],
        "headline": "Dice .994, masks as FP32",
        "notes": ["Smaller, not faster."],
        "rows": [
            {"title": "liver", "cells": cells(".994", "", "")},
            {"title": "FP32", "cells": cells("1", "3.1 s", "7.7 MB"), "of_all": True, "badges": ["float32", "CPU"]},
            {"title": "4-bit", "cells": cells(".994", "2.9 s", "2.5 MB"), "of_all": True, "badges": ["simulated"]},
        ],
    }


def make_widget(engine: FakeEngine, parent: Any) -> Any:
    """The module's own widget with this engine and a host that has a scene but no views."""
    from MedQuantSlicer import MedQuantSlicerLogic, MedQuantSlicerWidget
    from MedQuantSlicerLib.scene_host import SceneHost

    class Host(SceneHost):
        def __init__(self, parameters):
            super().__init__(parameters)
            self.calls, self.lacks = [], None

        def show_pair(self):
            self.calls.append(("pair",))

        def show_results(self, left, right, difference):
            self.calls.append(("results", left, right, difference))

        def restore_layout(self):
            self.calls.append(("restore",))

        def confirm(self, text):
            self.calls.append(("confirm", text))
            return True

        def open_folder(self, path):
            self.calls.append(("open", path))

        def missing(self):
            return self.lacks

        def install(self, on_progress, on_done, on_error):
            self.calls.append(("install", on_progress, on_done, on_error))

        def cancel_install(self):
            self.calls.append(("cancel_install",))

        def restarted(self):
            pass

    class Logic(MedQuantSlicerLogic):
        def __init__(self):
            super().__init__()
            self.moduleName = "MedQuantSlicer"

        def make_engine(self):
            return engine

    class Widget(MedQuantSlicerWidget):
        def make_host(self, parameters):
            return Host(parameters)

        def make_logic(self):
            return Logic()

        def open_sample(self):
            self.sampled = True

    widget = Widget(parent)
    widget.setup()
    widget.enter()
    return widget
