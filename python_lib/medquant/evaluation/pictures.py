"""Where pictures are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medquant.errors import UserError, one_of
from medquant.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
"""What a picture's name may end in."""


def require_picture(path: str | Path, option: str = "") -> None:
    """Raise `UserError` for a name that is not a picture's; `option` is what gave it."""
    if Path(path).suffix.lower() not in FORMATS:
        give = f"Give {option} a name" if option else "Choose a name"
        raise UserError(f"{path} is not the name of a picture. {give} that ends in {one_of(FORMATS)}.")


def save_picture(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole or not at all, in the format of its name. Raises `UserError` where that fails."""
    path = Path(path)
    require_picture(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor=figure.get_facecolor())
    return path
