"""`medquant app`: the window."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from medquant.commands import options as o
from medquant.errors import UserError

EXAMPLES = o.examples("medquant app", "medquant app /data/series", "medquant app session.mrb")


def app(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SCAN...]", help="A scan, a DICOM folder, a segmentation or a session to open."),
    ] = None,
) -> None:
    """Open the window: a scan, a model, a bit-width, and the masks of both models side by side."""
    missing = [name for name in ("PySide6", "slicer", "vtk") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"The window needs {' and '.join(missing)}, which this environment lacks. "
            "Start it with `python3 run.py app`, or install it with: pip install 'medquant[app]'"
        )
    from medquant_desktop.app import main

    raise typer.Exit(main([str(path) for path in paths or ()]))
