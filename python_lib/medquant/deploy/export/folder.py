"""A folder that is written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medquant.errors import UserError
from medquant.files import replacing


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
    finally:
        if beside is not None:
            with suppress(OSError):
                shutil.rmtree(beside)
