"""`medquant bench permutation-comq`: the paper's simulation for every reading, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medquant.commands import bench_cells as c
from medquant.commands import options as o
from medquant.commands.inputs import data_folder, existing_path, name_or_path
from medquant.commands.session import Session, output_folder, session
from medquant.commands.tables import plain_table
from medquant.errors import UserError
from medquant.evaluation import wording

if TYPE_CHECKING:
    from rich.table import Table

    from medquant.bench.cluster import OnRay
    from medquant.bench.permutation_comq.contenders import Setting
    from medquant.bench.permutation_comq.material import Material
    from medquant.bench.permutation_comq.simulation import SimulationRow
    from medquant.bench.permutation_comq.tables import TableRow
    from medquant.bench.running import Locally

EPILOG = o.examples(
    "medquant bench permutation-comq --part simulation",
    "medquant bench permutation-comq --data FOLDER --json rows.json",
    "medquant bench permutation-comq --dataset ABDOMENCT-1K --model medsam --cases 50",
)
PARTS = ("simulation", "tables")
CAPTIONS = {
    1: "Table 1: masks from boxes of the reference, by method",
    2: "Table 2: a scale for each layer, for each channel, and with permutation",
}


OF_TABLES = ("data", "dataset", "cases", "model", "weights", "methods", "device", "threads", "ray", "gpus")
"""Parameters that do nothing for the simulation."""


def permutation_comq(
    context: typer.Context,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="NAME",
            help="simulation (section 4.1) or tables (1 and 2). Repeatable; if not given "
            "the simulation, and the tables where --data or --dataset has scans for them.",
        ),
    ] = None,
    output: Annotated[
        str, o.output("Folder for figures, cells and quantized models; run again to go on.", "FOLDER")
    ] = "permutation-comq",
    data: Annotated[
        str | None,
        typer.Option(envvar="MEDQUANT_TEST_DATA", help="Folder of the scans at hand, where no data set is given."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="FOLDER", help="AbdomenCT-1K, as it was published.")] = None,
    cases: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cases of the data set that test; all if not given.")
    ] = None,
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    bits: Annotated[list[int] | None, typer.Option("--bits", help="Repeatable; 2, 4 and 8 if not given.")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Of the tables: fp32, rtn, comq, per-layer, layer (reading b), rows (reading d) or default. "
            "Repeatable; all if not given.",
        ),
    ] = None,
    device: c.Device = "auto",
    threads: c.Threads = None,
    ray: c.Ray = None,
    gpus: c.Gpus = 0.0,
    json_target: o.Json = None,
) -> None:
    """Run Permutation-COMQ's experiments again, for every reading of what it permutes.

    The simulation takes half a minute. The tables need AbdomenCT-1K and MedSAM; with the scans at hand and the embedded
    model, a quarter of an hour, they show the protocol, not the paper's figures. Every finished cell of the tables, a
    method at one width on one case, is kept in --output: a run that was killed goes on where it stopped.
    """
    from medquant.bench.permutation_comq.contenders import CONTENDERS, settings

    odd = [part for part in parts or () if part not in PARTS]
    if odd:
        raise UserError(f"Unknown part {odd[0]!r}. Choose simulation or tables.")
    chosen = tuple(parts or (PARTS if data or dataset else PARTS[:1]))
    _refuse_idle(o.typed(context), chosen)
    with session(json_target) as run:
        folder = output_folder(output)
        widths = tuple(bits or (2, 4, 8))
        contenders = settings(tuple(methods or CONTENDERS), widths)
        runner = c.runner_of(folder, device, threads, ray, gpus, usual="auto")
        material = _material(data, dataset, cases) if "tables" in chosen else None
        found: dict[str, Any] = {}
        no_tables: UserError | None = None
        if "simulation" in chosen:
            found["simulation"] = _simulate(run, folder, widths)
        if material is not None:
            try:
                found |= _tabulate(run, folder, material, (model, weights), contenders, runner)
            except UserError as error:
                if not found:
                    raise
                no_tables = error  # what was simulated is written all the same
        elif parts is None:
            run.say("For Tables 1 and 2 give scans: --dataset, or --data.")
        run.finish(found)
    if no_tables is not None:
        raise no_tables
    if found.get("failed"):
        raise typer.Exit(2)


def _refuse_idle(typed: Mapping[str, str], chosen: Sequence[str]) -> None:
    """Raise `UserError` for options that would do nothing, of those that were typed: parameter -> option."""
    idle = [typed[name] for name in OF_TABLES if name in typed]
    if idle and "tables" not in chosen:
        raise UserError(
            f"The simulation does not take {', '.join(idle)}. Leave that out, or measure the tables: --part tables, "
            "with scans by --dataset or --data."
        )
    if "data" in typed and "dataset" in typed:
        raise UserError("--data gives the scans at hand in the place of a data set. Leave it out, or --dataset.")
    if "cases" in typed and "dataset" not in typed:
        raise UserError("--cases is of a data set. Give one with --dataset, or leave --cases out.")


def _material(data: str | None, dataset: str | None, cases: int | None) -> Material:
    from medquant.bench.permutation_comq.material import abdomenct_1k, at_hand

    if dataset:
        return abdomenct_1k(Path(dataset).expanduser().absolute(), cases)
    return at_hand(data_folder(data).absolute())


def _simulate(run: Session, folder: Path, bits: tuple[int, ...]) -> list[dict[str, Any]]:
    from medquant.bench.permutation_comq.figures import write_figures
    from medquant.bench.permutation_comq.simulation import as_json
    from medquant.bench.permutation_comq.simulation import run as simulate
    from medquant.progress import Progress

    with run.track("Simulation") as (progress, cancelled):
        rows, layer, drawn = simulate(bits, tracker=Progress(progress, cancelled))
    print_simulation(run, rows)
    for path in write_figures(folder, layer, drawn):
        run.say(f"Written: {escape(str(path))}")
    return as_json(rows)


def _tabulate(
    run: Session,
    folder: Path,
    material: Material,
    named: tuple[str, str | None],
    chosen: Sequence[Setting],
    runner: Locally | OnRay,
) -> dict[str, Any]:
    from dataclasses import asdict

    from medquant.bench.networks import NamedNetwork
    from medquant.bench.permutation_comq.cells import cells
    from medquant.bench.permutation_comq.tables import table_rows

    model, weights = named
    network = NamedNetwork(name_or_path(model), None if weights is None else str(existing_path(weights, "--weights")))
    plan, measured, failed = c.run_cells(
        run,
        "Tables",
        lambda progress: cells(network, material, chosen, device=runner.device, progress=progress),
        folder,
        runner,
    )
    rows = table_rows(measured, chosen, material)
    print_tables(run, rows)
    if len(rows) < len(chosen):
        there = {(row.method, row.bits) for row in rows}
        lacking = "; ".join(one.describe() for one in chosen if (one.method, one.bits) not in there)
        run.say(escape(f"Left out, as not all of their cases are measured: {lacking}."))
    return {"tables": [asdict(row) for row in rows], "failed": c.failed_cells(plan, failed)}


def print_simulation(run: Session, rows: Sequence[SimulationRow]) -> None:
    """A table for each layer and treatment of lambda: what is stored for a weight, and what error that leaves."""
    widths = list(dict.fromkeys(row.bits for row in rows))
    for layer, clipping in dict.fromkeys((row.layer, row.clipping) for row in rows):
        table = plain_table(
            "reading", *(title for b in widths for title in (f"{b} bits:\nstored", "error\n%", "COMQ\nbits"))
        )
        of_table = [row for row in rows if (row.layer, row.clipping) == (layer, clipping)]
        for title in dict.fromkeys(row.title for row in of_table):
            by_bits = {row.bits: row for row in of_table if row.title == title}
            table.add_row(title, *(cell for b in widths for cell in _simulation_cells(by_bits.get(b))))
        told = {"none": "clipping factor 1", "searched": "clipping factor searched"}[clipping]
        _captioned(run, f"{layer}, {told}", table)
    run.say(
        "Stored: effective bits for each weight, with scales, zero points and the index of the permutation. Error: of "
        "the layer's output. COMQ bits: at how many bits COMQ errs as little; a dash: not between 2 and 8."
    )


def _simulation_cells(row: SimulationRow | None) -> tuple[str, str, str]:
    if row is None:
        return "", "", ""
    equal = wording.NOTHING if row.equals_comq_bits is None else f"{row.equals_comq_bits:.1f}"
    return f"{row.effective_bits:.2f}", f"{100 * row.output_error:#.3g}", equal


def print_tables(run: Session, rows: Sequence[TableRow]) -> None:
    """Tables 1 and 2, with the paper's figures for MedSAM beside ours."""
    for number, caption in CAPTIONS.items():
        of_table = [row for row in rows if number in row.tables]
        if not of_table:
            continue
        table = plain_table("method", "bits", "stored", "DSC %", "NSD %", "paper:\nDSC", "paper:\nNSD")
        for row in sorted(of_table, key=lambda row: -row.bits):
            figures = (row.dsc, row.nsd, row.published_dsc, row.published_nsd)
            table.add_row(row.title, str(row.bits), f"{row.effective_bits:.2f}", *map(_hundredths, figures))
        _captioned(run, caption, table)
    if rows:
        first = rows[0]
        run.say(escape(f"Model: {first.model}. {first.note}".rstrip()))
        run.say(escape(f"Measured on {first.data}. Calibrated on {first.calibration}."))
        run.say("The paper's columns are MedSAM on AbdomenCT-1K. Weights rounded, arithmetic in floating point.")


def _hundredths(value: float | None) -> str:
    return wording.NOTHING if value is None else f"{100 * value:.1f}"


def _captioned(run: Session, caption: str, table: Table) -> None:
    run.console.print(f"\n{caption}", style="bold", markup=False, highlight=False)
    run.console.print(table)
