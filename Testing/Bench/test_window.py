"""The benchmark of the window: its rows and its table, and by `-m heavy -k window` what the window promises."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from medquant.bench import window as bench
from medquant.commands.bench import window_size
from medquant.commands.bench_tables import print_window
from medquant.commands.session import Session
from medquant.errors import UserError

WHEEL = {"views": 2, "steps": 48, "median_ms": 41.2, "p95_ms": 62.0, "longest_ms": 70.0}
FOUND = {
    "ready_seconds": 2.14,
    "open_seconds": 1.5,
    "memory_scan_mb": 655.0,
    "memory_four_mb": 930.4,
    "wheel_both": WHEEL,
    "wheel_four": {**WHEEL, "views": 3},
    "wheel_busy": {**WHEEL, "p95_ms": 130.0},
    "whole_way_seconds": 44.0,
    "clicks": 7,
}


def test_a_promise_is_kept_up_to_what_is_asked() -> None:
    rows = bench.rows_of((1280, 800), FOUND)
    missed = [row["what"] for row in rows if not row["kept"]]
    assert missed == ["wheel step, p95, while quantizing ViT-B"]
    assert {(row["asked"], row["unit"]) for row in rows} == {
        (3.0, "s"), (900.0, "MB"), (80.0, "ms"), (100.0, "ms"), (180.0, "s"), (7, "clicks"),
        (None, "MB"),  # told, not promised
    }  # fmt: skip


def test_without_quantizing_there_is_no_row_of_it() -> None:
    rows = bench.rows_of((1280, 800), {key: value for key, value in FOUND.items() if key != "wheel_busy"})
    assert len(rows) == len(bench.rows_of((1280, 800), FOUND)) - 1
    assert not any("ViT-B" in row["what"] for row in rows)


def test_the_table_is_whole_in_80_columns() -> None:
    stream = io.StringIO()
    rows = bench.rows_of((1280, 800), FOUND) + bench.rows_of((2560, 1440), FOUND)
    print_window(Session(Console(file=stream, width=80, emoji=False)), rows)
    told = stream.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in told
    lines = told.splitlines()
    assert [line.split()[-1] for line in lines if "ready" in line] == ["s", "s"]
    assert sum(line.rstrip().endswith("missed") for line in lines) == 2
    assert any("2.1 s" in line and "3.0 s" in line for line in lines)
    assert any(line.startswith("The window at 2560 x 1440") for line in lines)


def test_sizes_are_read_and_refused() -> None:
    assert window_size("1280x800") == window_size("1280 X 800") == (1280, 800)
    for wrong in ("large", "1280", "1280x", "20x20"):
        with pytest.raises(UserError, match="no size of a window"):
            window_size(wrong)


def test_a_missing_series_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=bench.SERIES):
        bench.run(data=tmp_path)


@pytest.mark.heavy
def test_the_window_keeps_what_it_promises(test_data: Path) -> None:
    rows = bench.run(data=test_data)
    assert [f"{row['window']}: {row['what']} {row['measured']:.1f}" for row in rows if not row["kept"]] == []
