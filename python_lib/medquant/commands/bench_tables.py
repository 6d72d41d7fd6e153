"""The tables that `medquant bench` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from medquant.commands.session import Session
from medquant.evaluation import wording


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def print_facts(run: Session, result: dict[str, Any]) -> None:
    """Names and values, a line each."""
    width = max(len(name) for name in result)
    for name, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        run.console.print(f"{name.replace('_', ' '):<{width}}  {shown}", markup=False, highlight=False)


def print_quality(run: Session, rows: list[dict[str, Any]]) -> None:
    """Dice of each number of bits and method, a table for each network."""
    for network in dict.fromkeys(row["network"] for row in rows):
        table = _table("method", "settings", "weights", "inputs", "bits", "FP32", "reference", "kernels")
        for row in (row for row in rows if row["network"] == network):
            bits, kernels = row["activation_bits"], row.get("dsc_by_kernels_vs_fp32")
            table.add_row(
                str(row["method"]),
                str(row["settings"]),
                f"W{row['weight_bits']}",
                "" if bits >= 32 else f"A{bits} {row['granularity']}",
                f"{row['effective_bits']:.2f}",
                wording.score(row["dsc_vs_fp32"]),
                wording.score(row["dsc_vs_reference"]),
                f"int8 {wording.score(kernels)}" if kernels is not None else "simulated" if row["simulated"] else "",
            )
        run.console.print(f"{network}: Dice against", style="bold", markup=False, highlight=False)
        run.console.print(table)


def print_autoquant(run: Session, rows: list[dict[str, Any]]) -> None:
    """Each size: the same bits everywhere, and bits by sensitivity."""
    for network in dict.fromkeys(row["network"] for row in rows):
        table = _table("kind", "on disk", "bits", "FP32", "reference", "recipe")
        table.columns[-1].no_wrap = False
        for row in (row for row in rows if row["network"] == network):
            table.add_row(
                row["kind"],
                wording.size(row["bytes_on_disk"]),
                f"{row['effective_bits']:.2f}",
                wording.score(row["dsc_vs_fp32"]),
                wording.score(row["dsc_vs_reference"]),
                escape(row["recipe"]),
                style="bold" if row["kind"] == "mixed" else None,
            )
        run.console.print(f"{network}: Dice against", style="bold", markup=False, highlight=False)
        run.console.print(table)


def print_runtimes(run: Session, rows: list[dict[str, Any]]) -> None:
    """A table for each network, without the columns that no row has a figure for; below it what is to be said."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "runtime": lambda row: row["runtime"],
        "precision": lambda row: row["precision"],
        "time": lambda row: _told(row.get("seconds"), wording.seconds),
        "against\nPyTorch": lambda row: _told(row["speedup_vs_pytorch_fp32"], _times),
        "its own\nFP32": lambda row: (
            "" if row["runtime"] == "pytorch" else _told(row["speedup_vs_runtime_fp32"], _times)
        ),
        "memory": lambda row: _told(row["peak_memory_mb"], wording.memory),
        "of the\nGPU": lambda row: _told(row.get("gpu_memory_mb"), wording.memory),
        "Dice": lambda row: _told(row["dsc_vs_fp32"], wording.score),
        "made\nin": lambda row: _told(row.get("quantize_seconds"), wording.seconds),
        "start": lambda row: _told(row.get("start_seconds"), wording.seconds),
    }
    for network in dict.fromkeys(row["network"] for row in rows):
        found = [row for row in rows if row["network"] == network]
        shown = {title: cells for title, show in columns.items() if any(cells := [show(row) for row in found])}
        table = _table(*shown)
        for cells in zip(*shown.values(), strict=True):
            table.add_row(*cells)
        versions = {row["runtime"]: row["version"] for row in found if row.get("version")}
        gpu = next((f" on {row['gpu']}" for row in found if row.get("gpu")), "")
        run.console.print(f"{network}{gpu}", style="bold", markup=False, highlight=False)
        run.console.print(table)
        run.say(", ".join(f"{runtime} {version}" for runtime, version in versions.items()))
        for recipe in dict.fromkeys(row["recipe"] for row in found if row.get("recipe")):
            run.say(escape(f"The int8 model of medquant: {recipe}."))
        for row in found:
            if note := row.get("note") or ("simulated" if row["simulated"] else ""):
                run.say(escape(f"{row['runtime']} {row['precision']}: {note}"))
        measured = [row for row in found if row["seconds"] is not None]
        if measured:
            best = min(measured, key=lambda row: row["seconds"])
            run.say(f"Fastest: {best['runtime']} {best['precision']}, {wording.seconds(best['seconds'])} for one pass.")


def _told(value: float | None, how: Callable[[float], str]) -> str:
    return "" if value is None else how(value)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def print_pipeline(run: Session, rows: list[dict[str, Any]]) -> None:
    """A table for each scan, and below it where the time went."""
    for case in dict.fromkeys(row["case"] for row in rows):
        table = _table("engine", "precision", "time", "faster", "memory", "part", "Dice", "other\nvoxels")
        of_case = [row for row in rows if row["case"] == case]
        for row in of_case:
            table.add_row(
                row["engine"],
                row["precision"],
                wording.seconds(row["seconds"]),
                f"{row['speedup_vs_peer']:.1f}x" if "speedup_vs_peer" in row else "",
                wording.memory(row["peak_memory_mb"]),
                f"{row['memory_vs_peer']:.2f}" if "memory_vs_peer" in row else "",
                wording.score(row["dsc_vs_peer"]),
                "" if row["differing_voxels"] is None else f"{row['differing_voxels']:,}",
            )
        run.console.print(case, style="bold", markup=False, highlight=False)
        run.console.print(table)
        for row in of_case:
            stages = ", ".join(f"{name} {wording.seconds(seconds)}" for name, seconds in row["stages"].items())
            run.console.print(f"{row['engine']} {row['precision']}: {stages}", markup=False, highlight=False)


def print_window(run: Session, rows: list[dict[str, Any]]) -> None:
    """What was measured beside what is asked for, a table for each size of the window."""
    for size in dict.fromkeys(row["window"] for row in rows):
        of_size = [row for row in rows if row["window"] == size]
        table = _table("", "measured", "asked", "")
        for row in of_size:
            measured, asked = (
                "" if row[key] is None else _amount(row[key], row["unit"]) for key in ("measured", "asked")
            )
            table.add_row(row["what"], measured, asked, "" if row["kept"] else "missed")
        run.console.print(f"The window at {size}", style="bold", markup=False, highlight=False)
        run.console.print(table)
        for row in of_size:
            if row["note"]:
                run.say(escape(f"{row['what']}: {row['note']}"))


def _amount(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if unit == "s" and value < 10 else f"{value:.0f} {unit}"
