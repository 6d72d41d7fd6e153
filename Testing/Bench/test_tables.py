"""The tables of the benchmarks in a terminal of 80 columns."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from medquant.bench.runtime import _with_speedups
from medquant.commands.bench_tables import print_runtimes
from medquant.commands.session import Session


def _rows(*measured: tuple[str, str, float | None], **facts: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for runtime, precision, seconds in measured:
        row = {"network": "nnU-Net", "runtime": runtime, "precision": precision, "version": "2.13.0+cpu"}
        row |= {"seconds": seconds, "peak_memory_mb": 1024.0, "dsc_vs_fp32": 0.9987, "start_seconds": 12.34, **facts}
        rows.append(_with_speedups(row, rows))
    return rows


def _printed(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    print_runtimes(Session(Console(file=stream, width=80, emoji=False)), rows)
    return stream.getvalue()


def test_a_table_of_runtimes_is_whole_in_80_columns() -> None:
    rows = _rows(("pytorch", "fp32", 125.0), ("onnxruntime", "fp32", 99.0), ("openvino", "int8", 2.34),
                 quantize_seconds=81.5)  # fmt: skip
    told = _printed([*rows, *_rows(("tensorrt", "int8", None), note="absent: not installed.")])
    assert "\N{HORIZONTAL ELLIPSIS}" not in told
    assert all(word in told for word in ("precision", "onnxruntime", "2:05 min", "53.42x", "81.5 s", "2.13.0+cpu"))
    assert "tensorrt int8: absent: not installed." in told
    assert "Fastest: openvino int8, 2.34 s for one pass." in told


def test_columns_without_a_figure_are_left_out() -> None:
    told = _printed(_rows(("pytorch", "fp32", 0.1), ("openvino", "fp32", 0.05)))
    assert "made" not in told and "start" in told
    line = next(line for line in told.splitlines() if line.startswith("pytorch "))
    assert line.count("x") == 1, "PyTorch's own FP32 is PyTorch"
