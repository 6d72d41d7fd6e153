"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medquant.errors import UserError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it replaces `target`, on any failure it is removed.

    The temporary name ends with the target's full name, so writers that choose a format by suffix still work.
    It is on the disk before it gets its name, so a power cut leaves the old file or the new one. Raises `UserError`
    when the folder cannot be written, the disk or the quota is used up, or another program holds the target.
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
        _flush_to_disk(temporary)
        with replacing(target):
            temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        for left_over in folder.iterdir():
            left_over.unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def replacing(target: Path) -> Iterator[None]:
    """Around the move of a finished file onto `target`: raises `UserError` where another program holds that."""
    try:
        yield
    except PermissionError as error:  # on Windows, whatever has a file open keeps it
        raise UserError(
            f"Cannot write {target}: it is open in another program, or protected. Close it there and try again."
        ) from error
    except OSError as error:
        raise _cannot_write(target, error) from error


def _flush_to_disk(file: Path) -> None:
    """Some disks and network folders tell only now that they are full."""
    with file.open("rb+" if os.name == "nt" else "rb") as stream:  # Windows flushes only what it may write
        os.fsync(stream.fileno())


def _cannot_write(target: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk is full, {target.name} was not written. Free some space and try again.")
    if error.errno == errno.EDQUOT:
        return UserError(
            f"Your disk quota is used up, {target.name} was not written. Delete files of yours there and try again."
        )
    reason = error.strerror or str(error)
    return UserError(f"Cannot write {target}: {reason}. Choose a folder where you may write.")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
