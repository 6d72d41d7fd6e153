"""The rows of a run as one table for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medquant.files import atomic_path


def write_rows(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """The rows as one Parquet file, or as CSV (lists as JSON) where pyarrow is not installed."""
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
            writer.writerows({n: json.dumps(v) if isinstance(v, list) else v for n, v in row.items()} for row in rows)
        return folder / "results.csv"
    with atomic_path(folder / "results.parquet") as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
    return folder / "results.parquet"
