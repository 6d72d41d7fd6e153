"""What was being written to the user's own folders when the process was ended: the next process removes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOTE = "unfinished.json"
UNFINISHED = ".writing-*"
"""Files and folders get their names when they are whole; until then they are called so, beside their place."""


@contextmanager
def writing_in(folder: Path, exchange: Path) -> Iterator[None]:
    """Around work that writes to `folder`: what it leaves behind, should it be ended, is known in `exchange`."""
    there = sorted(path.name for path in folder.glob(UNFINISHED))
    note = exchange / NOTE
    note.write_text(json.dumps({"folder": str(folder), "there": there}), encoding="utf-8")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def remove_unfinished(exchange: Path) -> None:
    """Remove what an earlier process has left behind."""
    note = exchange / NOTE
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        left = [path for path in Path(told["folder"]).glob(UNFINISHED) if path.name not in told["there"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
