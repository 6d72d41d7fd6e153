"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medquant.errors import UserError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it replaces `target`, on any failure it is removed.

    The temporary name ends with the target's full name, so writers that choose a format by suffix still work.
    Raises `UserError` when the folder cannot be written or the disk is full.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target, error) from error
    temporary = folder / target.name
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        for left_over in folder.iterdir():
            left_over.unlink(missing_ok=True)
        folder.rmdir()


def _cannot_write(target: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk is full, {target.name} was not written. Free some space and try again.")
    reason = error.strerror or str(error)
    return UserError(f"Cannot write {target}: {reason}. Choose a folder where you may write.")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
