"""Finished cells on disk: one small file each, written whole or not at all, so that a killed run goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medquant.files import atomic_path

CELLS = "cells"


class Records:
    """The rows of the cells that are finished, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / CELLS

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a cell; None where it is not finished, or its file was damaged since."""
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


def write_rows(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """The rows as one Parquet file, or as CSV (structures as JSON) where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        with (
            atomic_path(folder / "results.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "structures": json.dumps(row["structures"])} for row in rows)
        return folder / "results.csv"
    with atomic_path(folder / "results.parquet") as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
    return folder / "results.parquet"
