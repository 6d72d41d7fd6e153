"""The window's side of its benchmark: `python -m medquant.bench.window_drive JOB.json` starts the window as
`medquant app` does, uses it by mouse, and writes down what it saw."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

LIVER = ((0.19, 0.15), (0.54, 0.70))
"""Where a box around the liver begins and ends, as parts of the view."""
STEPS = 48
TURNS = 8
"""Steps of the wheel in one direction before it turns back."""
PAUSE = 0.03
"""Between two steps of the wheel, in seconds."""
AFTER = 0.3
"""Between two steps while the engine works: the whole of its work is looked at."""
LONG = 900.0
"""How long anything may take."""


def main(job: dict[str, Any]) -> int:
    """Start the window as the command does; the drive begins with its first picture."""
    from medquant.cli import main as command
    from medquant_desktop import app

    _settings_of_its_own(job["folder"])
    make = app.make_window

    def made() -> Any:
        window = make()
        window.resize(*job["size"])
        _Drive(window, job)
        return window

    app.make_window = made
    sys.argv[1:] = ["app"]
    command()
    return 0


class _Drive:
    """Watches for the first picture of the window, then does what the job says."""

    def __init__(self, window: Any, job: dict[str, Any]) -> None:
        from PySide6.QtCore import QEvent, QObject, QTimer

        self.window, self.job = window, job
        self.found: dict[str, Any] = {}
        drive = self

        class Watch(QObject):
            """Sees that the welcome is painted; what stands in the queue behind it has its turn first."""

            def eventFilter(self, watched: Any, event: Any) -> bool:
                if event.type() == QEvent.Type.Paint:
                    watched.removeEventFilter(self)
                    QTimer.singleShot(0, drive.begin)
                return False

        self._watch = Watch(window)
        window.welcome.installEventFilter(self._watch)

    def begin(self) -> None:
        """The window is on the screen and takes clicks."""
        from PySide6.QtWidgets import QApplication

        from medquant.bench.window_hands import Hands

        self.found["ready_seconds"] = time.time() - psutil.Process().create_time()
        self.hands = Hands(QApplication.instance())
        try:
            self._work()
        except Exception as error:  # whatever it was, the answer says it
            self.found["problem"] = f"{type(error).__name__}: {error}"
        Path(self.job["answer"]).write_text(json.dumps(self.found), encoding="utf-8")
        self.window.documents.may_lose = lambda: True
        self.window.close()

    def _work(self) -> None:
        window, hands = self.window, self.hands
        ui, presenter = window.frame.module.ui, window.frame.presenter
        hands.wait(1.0)  # a person looks at it for as long, while the engine and the reader start
        began = time.perf_counter()
        hands.drop(window, self.job["scan"])
        hands.clicks += 1
        hands.until(lambda: presenter.shown.actions["quantize"].enabled, LONG)
        self.found["open_seconds"] = time.perf_counter() - began
        hands.wait(0.5)
        self.found["memory_scan_mb"] = _peak_mb()
        hands.push(ui.bits4Button)
        hands.push(ui.quantizeButton)
        hands.until(lambda: presenter.shown.waiting is None and presenter.shown.quantized, LONG)
        hands.push(ui.placeBoxButton)
        for place in LIVER:
            hands.click(window.views.left, *place)
        hands.until(lambda: presenter.shown.actions["segment"].enabled)
        hands.push(ui.segmentButton)
        hands.until(lambda: presenter.shown.table is not None and window.views.paired, LONG)
        hands.until(lambda: ui.headlineLabel.isVisible())
        self.found |= {"whole_way_seconds": time.perf_counter() - began, "clicks": hands.clicks}
        hands.wait(0.5)
        self.found["wheel_both"] = self._steps(STEPS, PAUSE)
        hands.push(window.bar.difference)
        hands.push(window.bar.three_d)
        hands.until(lambda: not window.views.panes["MedQuant3D"].view.words)
        hands.wait(1.0)
        self.found["wheel_four"] = self._steps(STEPS, PAUSE)
        self.found["memory_four_mb"] = _peak_mb()
        if self.job["weights"]:
            self._while_quantizing()

    def _while_quantizing(self) -> None:
        """Turn the wheel while MedSAM's network is being quantized, as long as that lasts or the job allows."""
        ui, presenter, hands = self.window.frame.module.ui, self.window.frame.presenter, self.hands
        presenter.add_weights(self.job["weights"])
        shown = lambda: presenter.shown  # noqa: E731
        hands.until(lambda: shown().model == self.job["weights"] and shown().actions["quantize"].enabled, LONG)
        hands.push(ui.quantizeButton)
        hands.until(lambda: shown().waiting is not None and (shown().waiting.fraction or 0) > 0, LONG)
        end = time.monotonic() + self.job["seconds"]
        busy = lambda: shown().waiting is not None and time.monotonic() < end  # noqa: E731
        self.found["wheel_busy"] = self._steps(10**6, AFTER, busy)
        self.found["quantized_to"] = shown().waiting.fraction if shown().waiting is not None else 1.0
        presenter.cancel()
        hands.until(lambda: shown().waiting is None)

    def _steps(self, count: int, pause: float, going: Callable[[], object] = lambda: True) -> dict[str, float]:
        """Milliseconds from a step of the wheel until every slice view has been painted again."""
        from medquant_desktop.slice_view import SliceView

        panes = self.window.views.panes.values()
        views = [pane.view for pane in panes if isinstance(pane.view, SliceView) and pane.view.isVisible()]
        painted = _Painted(views)
        spent: list[float] = []
        while len(spent) < count and going():
            before = [view.pictures for view in views]
            painted.begin()
            began = time.perf_counter()
            self.hands.turn(self.window.views.left, 1 if (len(spent) // TURNS) % 2 else -1)
            while any(view.pictures == then for view, then in zip(views, before, strict=True)) or painted.missing:
                self.hands.application.processEvents()
                if time.perf_counter() - began > 10.0:
                    raise RuntimeError("a step of the wheel painted nothing")
            spent.append(1000 * (time.perf_counter() - began))
            self.hands.wait(pause)
        painted.end()
        return {"views": len(views), **_summary(spent)}


class _Painted:
    """Which of some widgets have been painted since `begin`."""

    def __init__(self, views: Sequence[Any]) -> None:
        from PySide6.QtCore import QEvent, QObject

        self.missing: set[int] = set()
        self._views, missing = views, self.missing

        class Watch(QObject):
            def eventFilter(self, watched: Any, event: Any) -> bool:
                if event.type() == QEvent.Type.Paint:
                    missing.discard(id(watched))
                return False

        self._watch = Watch()
        for view in views:
            view.installEventFilter(self._watch)

    def begin(self) -> None:
        """From now on."""
        self.missing.update(id(view) for view in self._views)

    def end(self) -> None:
        """No more."""
        for view in self._views:
            view.removeEventFilter(self._watch)


def _summary(spent: Sequence[float]) -> dict[str, float]:
    ordered = sorted(spent)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {"steps": len(ordered), "median_ms": statistics.median(ordered), "p95_ms": p95, "longest_ms": ordered[-1]}


def _peak_mb() -> float:
    """The largest resident memory of this process so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss) / 1e6


def _settings_of_its_own(folder: str) -> None:
    from PySide6.QtCore import QSettings

    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, folder)


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
