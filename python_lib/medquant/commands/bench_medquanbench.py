"""`medquant bench medquanbench`: the paper's protocol on any models and cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import Session, output_folder, session, strong
from medquant.errors import UserError

if TYPE_CHECKING:
    from medquant.bench.medquanbench.subjects import Case, Subject
    from medquant.bench.medquanbench.tables import Table

EPILOG = o.examples(
    "medquant bench medquanbench --mini --output mini",
    "medquant bench medquanbench --model nnunet --weights results/ --dataset btcv BTCV/ --output btcv",
    "medquant bench medquanbench --model embedded-nnunet --case ct.nii.gz --labels labels.nii.gz "
    "--calibration other.nii.gz --output one",
)
CASES, GRID, PLACE = "Cases", "What is compared", "Where it runs"


def medquanbench(
    output: Annotated[str, o.output("Folder for records, tables and quantized models; run again to go on.", "FOLDER")],
    mini: Annotated[
        bool, typer.Option("--mini", help="Networks and cases that are at hand; no other model or case.")
    ] = False,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="As in medquant models, or a path. Repeatable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Trained weights, one for each --model in order; - for one without."),
    ] = None,
    option: o.ModelOptions = None,
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
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="No more cases than that.", rich_help_panel=CASES)
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
            envvar="MEDQUANT_TEST_DATA", help="Folder of real scans and weights, for --mini.", rich_help_panel=CASES
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
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.", rich_help_panel=PLACE)] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads of a cell; if not given PyTorch's choice, 1 with --ray.", rich_help_panel=PLACE
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="An existing Ray cluster: auto, HOST:PORT or ray://...", rich_help_panel=PLACE
        ),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, metavar="N", help="GPUs of a task on the cluster.", rich_help_panel=PLACE)
    ] = 0.0,
    json_target: o.Json = None,
) -> None:
    """Run MedQuanBench: networks by FP32, W8A8 and W4A4 by granularity by method, with DSC, NSD, drop, size and time.

    Every finished cell is kept in the output folder: a run that was killed goes on where it stopped.
    """
    import torch

    from medquant.bench.medquanbench import plan
    from medquant.bench.medquanbench.cluster import OnRay
    from medquant.bench.medquanbench.findings import findings
    from medquant.bench.medquanbench.mini import FOUND_BY_FP32, mini_settings
    from medquant.bench.medquanbench.results import write_rows
    from medquant.bench.medquanbench.running import Locally, run
    from medquant.bench.medquanbench.summary import summarize
    from medquant.bench.medquanbench.tables import tables, write_tables
    from medquant.bench.records import Records
    from medquant.progress import Progress

    with session(json_target) as told:
        folder = output_folder(output)
        chosen = {"precisions": precision, "granularities": granularity, "methods": method}
        chosen = {name: tuple(values) for name, values in chosen.items() if values}
        if mini:
            if models or case or dataset or chosen:
                raise UserError("--mini has its own models, cases and recipes. Leave the others out, or --mini.")
            subjects, settings = _mini(told, data), mini_settings()
        else:
            subjects = _subjects(models, weights, option, _cases(case, labels, dataset, limit), calibration)
            settings = plan.settings(**chosen)
        count = threads or (1 if ray else torch.get_num_threads())
        runner = OnRay(ray, gpus, count) if ray else Locally(folder / "models", device, count)
        with told.track("MedQuanBench") as (progress, cancelled):
            tracker = Progress(progress, cancelled)
            tracker.report(0.0, "Reading models and cases")
            cells = list(plan.cells(subjects, settings))
            rows, failed = run(cells, Records(folder), runner, tracker)
        for name, error in failed.items():
            told.say(escape(f"Not measured: {name}. {error}"))
        for name, lacking in _not_in_reference(rows).items():
            told.say(escape(f"Not in the reference, so not counted: {', '.join(lacking)} of {name}."))
        if not rows:
            raise UserError("No cell could be measured. Correct what is said above and run again.")
        least = FOUND_BY_FP32 if mini else 0.0
        lines = summarize(rows, found_by_fp32=least)
        found = findings(lines)
        made = tables(lines, found, least)
        written = [write_rows(rows, folder), *write_tables(made, folder)]
        for table in made:
            _show(told, table)
        told.say(f"Written: {', '.join(strong(path) for path in written)}")
        told.finish(
            {
                "lines": [line.to_dict() for line in lines],
                "findings": [finding.to_dict() for finding in found],
                "rows": rows,
                "failed": {name: str(error) for name, error in failed.items()},
            }
        )


def _not_in_reference(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Model -> what it names and the reference of none of its cases has, in its order."""
    by_model: dict[str, list[list[str]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(row["not_in_reference"])
    lacking = {
        model: [name for name in found[0] if all(name in one for one in found)] for model, found in by_model.items()
    }
    return {model: names for model, names in lacking.items() if names}


def _mini(told: Session, data: str | None) -> list[Subject]:
    from medquant.bench.medquanbench.mini import subjects
    from medquant.commands.bench import data_folder

    if data is None:
        told.say("Without the folder of real scans (--data) only the embedded models are measured.")
    return subjects(None if data is None else data_folder(data).absolute())


def _subjects(
    models: list[str] | None,
    weights: list[str] | None,
    options: list[str] | None,
    cases: list[Case],
    calibration: list[str] | None,
) -> list[Subject]:
    from medquant.bench.medquanbench.subjects import FileCase, NamedNetwork, Subject
    from medquant.commands.inputs import parse_model_options

    if not models:
        raise UserError("There is no model to measure. Give one with --model, or use --mini.")
    given = [None if one == "-" else str(Path(one).expanduser().absolute()) for one in weights or ()]
    if given and len(given) != len(models):
        raise UserError(f"{len(given)} weights do not fit {len(models)} models. Give one for each, - for one without.")
    if calibration:
        scans = tuple(FileCase(Path(scan).expanduser().absolute()) for scan in calibration)
    else:
        scans, cases = tuple(cases[:1]), cases[1:]
    if not cases:
        raise UserError("There is no case left to test. Give more cases, or a scan with --calibration.")
    chosen = json.dumps(parse_model_options(options or ()), sort_keys=True)
    return [
        Subject(NamedNetwork(spec, path, chosen), scans, tuple(cases))
        for spec, path in zip(models, given or [None] * len(models), strict=True)
    ]


def _cases(
    scans: list[str] | None, labels: list[str] | None, dataset: tuple[str, str] | None, limit: int | None
) -> list[Case]:
    """Cases with a reference, in order. Raises `UserError` where there is none."""
    from medquant.bench.medquanbench.subjects import FileCase

    scans, labels = scans or [], labels or []
    if len(scans) != len(labels):
        raise UserError(f"{len(labels)} references do not fit {len(scans)} scans. Give one --labels for each --case.")
    places = [Path(one).expanduser().absolute() for one in (*scans, *labels)]
    cases: list[Case] = list(map(FileCase, places[: len(scans)], places[len(scans) :]))
    if dataset is not None:
        from medquant.datasets import open_dataset

        name, folder = dataset
        cases += open_dataset(name, Path(folder).expanduser().absolute()).with_reference()
    if not cases:
        raise UserError(
            "There is no case to test on. Give --case SCAN --labels FILE or --dataset NAME FOLDER, or --mini."
        )
    return cases[:limit]


def _show(told: Session, table: Table) -> None:
    from rich.table import Table as Shown

    shown = Shown(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for number, title in enumerate(table.head):
        shown.add_column(title, no_wrap=number > 0 and table.head[0] != "claim")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    told.console.print(table.title, style="bold", markup=False, highlight=False)
    told.console.print(shown)
