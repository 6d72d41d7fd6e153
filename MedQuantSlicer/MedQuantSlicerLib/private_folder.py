"""Folders that hold a patient's scan: private, and removed at the next start where their owner was killed."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: there a file that is open cannot be removed, which tells the same
    fcntl = None

PREFIX, OWNER = "medquant-", "owner"
"""Of the folders' names; the file in them that their owner keeps locked for as long as it lives."""
SETTLED_SECONDS = 60.0
"""A folder younger than this may belong to a process that is just about to lock it."""
REMOVE_SECONDS = 1.0
"""Windows lets go of the files of a process a moment after its end."""


class PrivateFolder:
    """A new folder in the system's temporary one; those that others have left behind are removed first."""

    def __init__(self, name: str) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-"))
        self._lock: IO | None = (self.path / OWNER).open("w")
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Remove it with all that is in it; what Windows does not let go of yet goes with the next `sweep`."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        _remove(self.path, REMOVE_SECONDS)


def sweep() -> None:
    """Remove the folders whose owner has ended without removing them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_abandoned(folder / OWNER):
            _remove(folder, 0.0)


def _is_abandoned(owner: Path) -> bool:
    try:
        if time.time() - owner.stat().st_mtime < SETTLED_SECONDS:
            return False
        if fcntl is None:
            owner.unlink()
            return True
        with owner.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # it is not such a folder, somebody else's, or its owner lives
        return False


def _remove(folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        if time.monotonic() >= end:
            break
        time.sleep(0.05)
    with suppress(OSError):
        (folder / OWNER).touch()  # the mark by which the next sweep knows it
