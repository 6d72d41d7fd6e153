"""`medquant bench medquanbench`: the paper's protocol on any models and cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medquant.commands import bench_cells as c
from medquant.commands import options as o
from medquant.commands.medquanbench_inputs import cases_of, mini_subjects, subjects_of
from medquant.commands.session import Session, output_folder, session, strong
from medquant.commands.tables import plain_table
from medquant.errors import UserError

if TYPE_CHECKING:
    from medquant.bench.medquanbench.tables import Table

EPILOG = o.examples(
    "medquant bench medquanbench --mini --output mini",
    "medquant bench medquanbench --model nnunet --weights results/ --dataset btcv BTCV/ --output btcv",
    "medquant bench medquanbench --model embedded-nnunet --case ct.nii.gz --labels labels.nii.gz "
    "--calibration other.nii.gz --output one",
)
CASES, GRID = "Cases", "What is compared"


def medquanbench(
    output: Annotated[str, o.output("Folder for records, tables and quantized models; run again to go on.", "FOLDER")],
    mini: Annotated[
        bool,
        typer.Option(
            "--mini",
            help="Networks and cases that are at hand, and no others: a U-Net with public weights on a real CT where "
            "there is --data, and the embedded UNETR and nnU-Net on phantoms.",
        ),
    ] = False,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="As in medquant models, or a path. Repeatable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Trained weights, one for each --model in order; - for one without."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[N:]NAME=VALUE",
            help="An option of the N-th --model's own, as in 2:roi_size=[96,96,96]; without N, of all that know it. "
            "Repeatable.",
        ),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="SCAN", help="A scan with a reference, see --labels. Repeatable.", rich_help_panel=CASES),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="The reference of each --case, in order.", rich_help_panel=CASES),
    ] = None,
    dataset: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="NAME FOLDER", help="A data set in its published layout.", rich_help_panel=CASES),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of the data set: train, val or test. If not given, what was not published to train on, where it has "
            "references.",
            rich_help_panel=CASES,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Test no more cases than that.", rich_help_panel=CASES)
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCAN",
            help="Scan to calibrate with. Repeatable; if not given the first case, which is not tested then.",
            rich_help_panel=CASES,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            envvar="MEDQUANT_TEST_DATA",
            help="Folder of real scans and weights for --mini; without it only the embedded networks are measured.",
            rich_help_panel=CASES,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="W8A8 or W4A4. Repeatable; both if not given.", rich_help_panel=GRID),
    ] = None,
    granularity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="per-tensor, per-channel/token or adaptive. Repeatable; all if not given.",
            rich_help_panel=GRID,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="rtn (the paper's), comq, permutation-comq, gptq, or medquant for its own recipe. Repeatable; "
            "rtn and medquant if not given.",
            rich_help_panel=GRID,
        ),
    ] = None,
    device: c.Device = "cpu",
    threads: c.Threads = None,
    ray: c.Ray = None,
    gpus: c.Gpus = 0.0,
    json_target: o.Json = None,
) -> None:
    """Run MedQuanBench: networks by FP32, W8A8 and W4A4 by granularity by method, with DSC, NSD, drop, size and time.

    Every finished cell is kept in the output folder: a run that was killed goes on where it stopped.
    """
    from medquant.bench.medquanbench import plan
    from medquant.bench.medquanbench.findings import findings
    from medquant.bench.medquanbench.mini import FOUND_BY_FP32, mini_settings
    from medquant.bench.medquanbench.results import write_rows
    from medquant.bench.medquanbench.summary import summarize
    from medquant.bench.medquanbench.tables import tables, write_tables

    with session(json_target) as told:
        folder = output_folder(output)
        chosen = {"precisions": precision, "granularities": granularity, "methods": method}
        chosen = {name: tuple(values) for name, values in chosen.items() if values}
        if mini:
            if any((models, weights, option, case, labels, dataset, split, limit, calibration, chosen)):
                raise UserError("--mini has its own models, cases and recipes. Leave the others out, or --mini.")
            subjects, settings = mini_subjects(told, data), mini_settings()
        else:
            cases = cases_of(case, labels, dataset, split)
            subjects = subjects_of(models, weights, option, cases, calibration, limit)
            settings = plan.settings(**chosen)
        runner = c.runner_of(folder, device, threads, ray, gpus)
        for one in () if mini else cases[: len(case or ())]:
            one.reference()  # raises for labels of another scan before anything is quantized
        cells, rows, failed = c.run_cells(
            told,
            "MedQuanBench",
            lambda _: list(plan.cells(subjects, settings, device=runner.device)),
            folder,
            runner,
        )
        if others := [row["threads"] for row in rows if row["threads"] != runner.threads]:
            counts, share = " or ".join(map(str, sorted(set(others)))), f"{len(others)} of {len(rows)}"
            told.say(
                f"Kept from an earlier run with --threads {counts}, their times too: {share} rows. "
                "To time them anew give another --output."
            )
        for name, lacking in _not_in_reference(rows).items():
            told.say(escape(f"Not in the reference, so not counted: {', '.join(lacking)} of {name}."))
        for name in dict.fromkeys(row["model"] for row in rows if row["matched_by_number"]):
            pairs = dict.fromkeys(pair for row in rows if row["model"] == name for pair in row["matched_by_number"])
            words = f"The labels have no names, so those of one number were compared: {', '.join(pairs)} of {name}."
            told.say(escape(f"{words} Where that is another structure, give labels with names, such as a .seg.nrrd."))
        least = FOUND_BY_FP32 if mini else 0.0
        lines = summarize(rows, found_by_fp32=least)
        found = findings(lines)
        made = tables(lines, found, least)
        written = [write_rows(rows, folder), *write_tables(made, folder)]
        for table in made:
            _show(told, table)
        told.say(f"Written: {', '.join(strong(path) for path in written)}")
        if written[0].suffix == ".csv":
            told.say(
                escape("Rows are CSV, as pyarrow is not installed; pip install './python_lib[benchmark]' for Parquet.")
            )
        told.finish(
            {
                "lines": [line.to_dict() for line in lines],
                "findings": [finding.to_dict() for finding in found],
                "rows": rows,
                "failed": c.failed_cells(cells, failed),
            }
        )
    if failed:
        raise typer.Exit(2)


def _not_in_reference(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Model -> what it names and the reference of none of its cases has, in its order."""
    by_model: dict[str, list[list[str]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(row["not_in_reference"])
    lacking = {
        model: [name for name in found[0] if all(name in one for one in found)] for model, found in by_model.items()
    }
    return {model: names for model, names in lacking.items() if names}


def _show(told: Session, table: Table) -> None:
    told.say(f"\n{strong(table.title)}")
    for part in table.parts:
        shown = plain_table(*part.head, text=part.words)
        for row in part.rows:
            shown.add_row(*map(escape, row))
        told.say(escape(part.title))
        told.console.print(shown)
        if part.note:
            told.say(escape(part.note))
    if table.note:
        told.say(escape(table.note))
