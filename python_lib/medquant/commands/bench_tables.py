"""The tables that `medquant bench` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from medquant.commands.session import Session
from medquant.commands.tables import plain_table
from medquant.evaluation import wording

if TYPE_CHECKING:
    from medquant.bench.rewrites import Row


def print_facts(run: Session, result: dict[str, Any]) -> None:
    """Names and values, a line each."""
    width = max(len(name) for name in result)
    for name, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        run.console.print(f"{name.replace('_', ' '):<{width}}  {shown}", markup=False, highlight=False)


def print_quality(run: Session, rows: list[dict[str, Any]]) -> None:
    """Dice of each number of bits and method, a table for each network."""
    for network in dict.fromkeys(row["network"] for row in rows):
        found = [row for row in rows if row["network"] == network]
        integers = any(row["activation_bits"] < 32 for row in found)
        titles = ["method", "settings", *(["inputs"] if integers else []), "", "bits", "Dice\nFP32", "Dice\nref."]
        table = plain_table(*titles, *(["int8\nkernels"] if integers else []), text=3 if integers else 2)
        for row in found:
            bits, kernels = row["activation_bits"], row.get("dsc_by_kernels_vs_fp32")
            rounded = bits < 32
            cells = [str(row["method"]), str(row["settings"])]
            cells += [row["granularity"] if rounded else ""] if integers else []
            cells += [f"W{row['weight_bits']}" + (f"A{bits}" if rounded else ""), f"{row['effective_bits']:.2f}"]
            cells += [wording.score(row["dsc_vs_fp32"]), wording.score(row["dsc_vs_reference"])]
            cells += [wording.score(kernels) if rounded else ""] if integers else []
            table.add_row(*cells)
        run.console.print(network, style="bold", markup=False, highlight=False)
        run.console.print(table)
        if integers and any(row["simulated"] for row in found):
            run.say(f"{wording.NOTHING}: no integer kernels compute these rows, their rounding is simulated.")
        for row in (row for row in found if row.get("floating_layers")):
            kind = f"{row['settings']}, W{row['weight_bits']}A{row['activation_bits']} {row['granularity']}"
            run.say(escape(f"{kind}: {row['floating_layers']} of {row['layers']} layers in floating point"))


def print_autoquant(run: Session, rows: list[dict[str, Any]]) -> None:
    """Each size: the same bits everywhere, and bits by sensitivity; and whether these are worth it."""
    from medquant.bench.autoquant import beaten

    for network in dict.fromkeys(row["network"] for row in rows):
        table = plain_table("kind", "recipe", "on disk", "bits", "Dice\nFP32", "Dice\nref.", text=2)
        for row in (row for row in rows if row["network"] == network):
            table.add_row(
                row["kind"],
                escape(row["recipe"]),
                wording.size(row["bytes_on_disk"]),
                f"{row['effective_bits']:.2f}",
                wording.score(row["dsc_vs_fp32"]),
                wording.score(row["dsc_vs_reference"]),
                style="bold" if row["kind"] == "mixed" else None,
            )
        run.console.print(network, style="bold", markup=False, highlight=False)
        run.console.print(table)
    run.say(
        "uniform: the same bits in every layer. All kinds leave out channels that training has switched off. Weights "
        "rounded, arithmetic in floating point."
    )
    lost = beaten(rows)
    for mixed, uniform in lost:
        sizes = [wording.size(one["bytes_on_disk"]) for one in (mixed, uniform)]
        run.say(f"Mixed at {sizes[0]} is not as near to FP32 as the same bits everywhere at {sizes[1]}.")
    if not lost:
        run.say("Each mixed model is at least as near to FP32 as every uniform one that is no larger.")


def print_rewrites(run: Session, rows: list[Row]) -> None:
    """For each rounding the networks' Dice with every rewrite, what it gains over none, and whether that counts."""
    from medquant.bench.rewrites import NONE, gains

    found = {(one.rounding, one.rewrite, one.one_layer): one for one in gains(rows)}
    networks = list(dict.fromkeys(row.network for row in rows))
    for rounding in dict.fromkeys(row.rounding for row in rows):
        columns = [network.rpartition("_")[2] for network in networks]
        table = plain_table("rewrite", "of", "bits", *columns, "ref.", "gain", "", text=2)
        own = [row for row in rows if row.rounding == rounding]
        for rewrite, one_layer in dict.fromkeys((row.rewrite, bool(row.layer)) for row in own):
            same = [row for row in own if (row.rewrite, bool(row.layer)) == (rewrite, one_layer)]
            gain = found.get((rounding, rewrite, one_layer))
            table.add_row(
                rewrite,
                "" if rewrite == NONE else "one layer" if one_layer else "all",
                f"{sum(row.effective_bits for row in same) / len(same):.2f}",
                *(wording.score(row.dsc_vs_fp32) for row in same),
                wording.score(sum(row.dsc_vs_reference for row in same) / len(same)),
                "" if gain is None else f"{gain.gain:+.3f} ± {gain.gain_error:.3f}",
                "" if gain is None else gain.verdict,
            )
        run.console.print(f"{rounding}: Dice against FP32 and reference", style="bold", markup=False, highlight=False)
        run.console.print(table)
    run.say(f"Networks: {escape(', '.join(networks))}.")
    for layer, network, rounding in dict.fromkeys((row.layer, row.network, row.rounding) for row in rows if row.layer):
        run.say(escape(f"One layer, {network}, {rounding}: {layer}, whose output rounding harms most."))
    run.say(
        "Gain: mean over networks and organs, with its standard error. A tie is within two of them, below .01, "
        "or no more than calibrating elsewhere changes."
    )


def print_redesign(run: Session, rows: list[dict[str, Any]]) -> None:
    """Original and redesigned networks, in FP32 and rounded."""
    table = plain_table("network", "precision", "granularity", "original's\nFP32", "labels", text=3)
    for row in rows:
        scores = (wording.score(row["dsc_vs_original"]), wording.score(row["dsc_vs_labels"]))
        table.add_row(row["network"], row["precision"], row["granularity"], *scores)
    run.console.print("Dice against", style="bold", markup=False, highlight=False)
    run.console.print(table)
    run.say("A redesigned network is a different model: it is not the original rounded otherwise.")


def print_runtimes(run: Session, rows: list[dict[str, Any]]) -> None:
    """A table for each network, without the columns that no row has a figure for; below it what is to be said."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "runtime": lambda row: row["runtime"],
        "precision": lambda row: row["precision"],
        "time": lambda row: _told(row.get("seconds"), _pass),
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
        table = plain_table(*shown, text=2)
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
        for beyond in [row["beyond_peer"] for row in found if row.get("beyond_peer")][:1]:
            parts = " and ".join(f"{what} ({wording.seconds(seconds)})" for what, seconds in beyond.items())
            run.say(escape(f"Made in: with {parts}, which NNCF's defaults do not do."))
        measured = [row for row in found if row["seconds"] is not None]
        if measured:
            best = min(measured, key=lambda row: row["seconds"])
            run.say(f"Fastest: {best['runtime']} {best['precision']}, {_pass(best['seconds'])} for one pass.")


def _told(value: float | None, how: Callable[[float], str]) -> str:
    return "" if value is None else how(value)


def _pass(seconds: float) -> str:
    """Of rows that are to be compared: three digits below a second."""
    return f"{seconds:.3f} s" if 0.1 <= seconds < 1 else wording.seconds(seconds)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def print_pipeline(run: Session, rows: list[dict[str, Any]]) -> None:
    """A table for each scan, and below it where the time went."""
    for case in dict.fromkeys(row["case"] for row in rows):
        table = plain_table("engine", "precision", "time", "faster", "memory", "part", "Dice", "other\nvoxels", text=2)
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
        table = plain_table("", "measured", "asked", "")
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
