"""A folder that is written whole or not at all."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from medquant.background import stoppable_call
from medquant.errors import UserError
from medquant.files import replacing
from medquant.progress import Progress

PATIENCE = 30.0
"""Seconds that a stopped export waits for its converter before it removes the files."""
_PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)

T = TypeVar("T")


def require_free(target: Path, *, overwrite: bool) -> Path:
    """`target`, known to be a folder that may be made or replaced. Raises `UserError`."""
    target = Path(target).expanduser()
    if target.is_file():
        raise UserError(f"{target} is a file. Give the name of a folder.")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise UserError(f"The folder {target} exists and is not empty. Choose another, or add --overwrite.")
        if not (target / "model.json").is_file():
            raise UserError(
                f"{target} holds other things than an export, so it is not replaced. Choose another folder."
            )
    return target


@contextmanager
def whole_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder beside `target` that takes its place on success; on any failure nothing is left of it.

    Raises `UserError` where `target` is not empty (unless an earlier export is to be overwritten), may not be written,
    or the disk is full.
    """
    target = require_free(target, overwrite=overwrite)
    beside: Path | None = None
    try:
        with replacing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
            made = beside / "new"
            made.mkdir()
            yield made
            if target.exists():
                target.replace(beside / "old")
            try:
                made.replace(target)
            except OSError:
                if (beside / "old").exists():
                    (beside / "old").replace(target)
                raise
    except BaseException as error:
        _clear_frames(error)
        raise
    finally:
        if beside is not None:
            _remove(beside)


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of an error, and of those that led to it, hold: a session keeps its files open."""
    cleared: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one not in cleared:
            cleared.append(one)
            traceback.clear_frames(one.__traceback__)
            waiting += [led for led in (one.__cause__, one.__context__) if led is not None]


def working_in(folder: Path, work: Callable[[], T], progress: Progress, *, writes: bool) -> T:
    """What `work()` gives, which reads or writes in the folder of `whole_folder`; `Cancelled` once the user asks.

    A converter cannot be interrupted. Stopped, it is waited for (`PATIENCE`) so that nothing of it is left; one that
    only reads is waited for on Windows, where files that are open cannot be removed.
    """
    patience = PATIENCE if writes or sys.platform == "win32" else 0.0
    return stoppable_call(work, progress, patience=patience, afterwards=lambda: _remove(folder.parent))


def _remove(folder: Path) -> None:
    """Remove a folder and what is in it, again for some seconds where a file comes in between or is still open."""
    for pause in _PAUSES:
        time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
