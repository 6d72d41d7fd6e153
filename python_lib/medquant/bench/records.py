"""Finished measurements on disk: one small file each, written whole or not at all, so that a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medquant.files import atomic_path

CELLS = "cells"


class Records:
    """The rows that are finished, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / CELLS

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key; None where it is not finished, or its file was damaged since."""
        try:
            row = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return row if isinstance(row, dict) and row.get("key") == key else None

    def put(self, row: dict[str, Any]) -> None:
        """Keep a row, under its `key`. Raises `UserError` where the folder cannot be written."""
        with atomic_path(self._file(row["key"])) as temporary:
            temporary.write_text(json.dumps(row, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"
