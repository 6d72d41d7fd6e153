"""Where pictures are written."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from medquant.files import atomic_path


def save_picture(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole or not at all, in the format of its name. Raises `UserError` where that fails."""
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor=figure.get_facecolor())
    return path
