"""What the window promises, measured: how soon it is ready, how fast the wheel turns, memory, and the whole way.

The window is the real one, in a process of its own, used by mouse and wheel. Its settings, recent files and the
engine's cache are those of an empty folder, so nothing of the user's changes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medquant.bench.child import run_step
from medquant.commands.app import DISPLAYS
from medquant.errors import UserError
from medquant.progress import CancelCheck, Progress, ProgressCallback

SIZES = ((1280, 800), (2560, 1440))
SERIES = "ct_abdomen_dicom"
READY_SECONDS, WHEEL_MS, BUSY_MS, MEMORY_MB, WAY_SECONDS, WAY_CLICKS = 3.0, 80.0, 100.0, 900.0, 180.0, 7
"""What is asked for."""
BUSY_SECONDS = 300.0
"""The wheel turns for so long at most while the engine quantizes."""


def run(
    *,
    data: Path,
    sizes: Sequence[tuple[int, int]] = SIZES,
    busy_seconds: float = BUSY_SECONDS,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """One row for each figure and size of the window: `what`, `measured`, `asked` (None: no promise), `unit`, `kept`,
    `note`.

    `busy_seconds`: 0 leaves the quantizing of MedSAM's network out. Raises `UserError` where the series is missing or
    the window cannot be started or used.
    """
    scan = data / SERIES
    if not scan.is_dir():
        raise UserError(f"There is no folder {scan}. Give the folder of the real scans with --data.")
    tracker = Progress(progress, cancelled)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="medquant-bench-") as name:
        folder = Path(name)
        weights = _random_weights(folder, tracker) if busy_seconds else ""
        for number, size in enumerate(sizes):
            tracker.report(0.05 + 0.95 * number / len(sizes), f"The window at {size[0]} x {size[1]}")
            job = {"size": list(size), "scan": str(scan), "weights": weights, "seconds": busy_seconds}
            rows += rows_of(size, _drive(folder, job, tracker))
    return rows


def rows_of(size: tuple[int, int], found: dict[str, Any]) -> list[dict[str, Any]]:
    """What one drive of the window found, beside what is asked for."""
    rows: list[dict[str, Any]] = []

    def row(what: str, measured: float, asked: float | None, unit: str, note: str = "") -> None:
        about = {"window": f"{size[0]} x {size[1]}", "what": what, "note": note}
        kept = asked is None or measured <= asked
        rows.append({**about, "measured": measured, "asked": asked, "unit": unit, "kept": kept})

    row("ready after the start", found["ready_seconds"], READY_SECONDS, "s")
    row("peak memory, scan open", found["memory_scan_mb"], MEMORY_MB, "MB")
    row("peak memory, compared, four views", found["memory_four_mb"], None, "MB")
    for key, name in (("wheel_both", "both views"), ("wheel_four", "three slice views and 3-D")):
        told = found[key]
        row(f"wheel step, {name}", told["median_ms"], WHEEL_MS, "ms", f"p95 {told['p95_ms']:.0f} ms")
    if "wheel_busy" in found:
        busy = found["wheel_busy"]
        note = f"median {busy['median_ms']:.0f}, longest {busy['longest_ms']:.0f} ms of {busy['steps']} steps"
        row("wheel step, p95, while quantizing ViT-B", busy["p95_ms"], BUSY_MS, "ms", note)
    row("scan opened to comparison", found["whole_way_seconds"], WAY_SECONDS, "s")
    row("scan opened to comparison", found["clicks"], WAY_CLICKS, "clicks")
    return rows


def _random_weights(folder: Path, tracker: Progress) -> str:
    """MedSAM's network with random weights, as transformers saves it: time does not depend on their values."""
    from transformers.utils import logging

    from medquant.bench.footprint import random_vit_b

    tracker.report(0.0, "Making the weights of SAM ViT-B")
    logging.disable_progress_bar()
    random_vit_b().network.save_pretrained(folder / "vit_b")
    return str(folder / "vit_b")


def _drive(folder: Path, job: dict[str, Any], tracker: Progress) -> dict[str, Any]:
    """Start the window, let it be used; what it found."""
    with _environment(folder):
        found, _memory = run_step(
            "medquant.bench.window_drive", {**job, "folder": str(folder)}, folder, tracker.check, name="The window"
        )
    if "problem" in found:
        raise UserError(f"The window could not be used to the end ({found['problem']}). Do not touch it.")
    return found


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """A cache of its own for the engine, and on a Linux without a display a window that is not shown."""
    more = {"MEDQUANT_CACHE": str(folder / "cache")}
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in DISPLAYS):
        more["QT_QPA_PLATFORM"] = "offscreen"
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
