"""`medquant app`: the window."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from medquant.commands import options as o
from medquant.errors import UserError

EXAMPLES = o.examples("medquant app", "medquant app /data/series", "medquant app session.mrb")

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
"""What says where a window goes on Linux; the last also says that it goes nowhere."""


def app(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SCAN...]", help="A scan, a DICOM folder, a segmentation or a session to open."),
    ] = None,
) -> None:
    """Open the window: a scan, a model, a bit-width, and the masks of both models side by side."""
    need_window()
    need_display()
    from medquant_desktop.app import main

    raise typer.Exit(main([str(path) for path in paths or ()]))


def need_window() -> None:
    """Raises `UserError` where the window's libraries are not installed."""
    missing = [name for name in ("PySide6", "slicer", "vtk") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"The window needs {' and '.join(missing)}, which this environment lacks. "
            "Start it with `python3 run.py app`, or install it with: pip install './python_lib[app]'"
        )


def need_display() -> None:
    """Raises `UserError` on a Linux without a display, unless Qt was told where to draw."""
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in DISPLAYS):
        raise UserError(
            "There is no display to show the window on. Start it in a desktop session or with `ssh -X`, "
            "or use `medquant demo`, which needs none."
        )
