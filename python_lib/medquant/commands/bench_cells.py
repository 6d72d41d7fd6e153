"""What the benchmarks made of cells share as commands: where cells run, and what is told of those that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.markup import escape

from medquant.commands.session import Session
from medquant.errors import Cancelled, UserError

if TYPE_CHECKING:
    from medquant.bench.cell import BenchmarkCell
    from medquant.bench.cluster import OnRay
    from medquant.bench.running import Locally
    from medquant.progress import Progress

    AnyCell = TypeVar("AnyCell", bound=BenchmarkCell)

PLACE = "Where it runs"
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.", rich_help_panel=PLACE)]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of a cell; if not given PyTorch's choice, 1 with --ray.", rich_help_panel=PLACE),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="An existing Ray cluster: auto, HOST:PORT or ray://...", rich_help_panel=PLACE
    ),
]
Gpus = Annotated[float, typer.Option(min=0, metavar="N", help="GPUs of a task on the cluster.", rich_help_panel=PLACE)]


def runner_of(
    folder: Path, device: str, threads: int | None, ray: str | None, gpus: float, *, usual: str = "cpu"
) -> Locally | OnRay:
    """What runs cells, here with quantized models in `folder` or on a cluster; `usual`: the device if none is given.

    Raises `UserError` for a device that is not there, and for words that do not go together.
    """
    import torch

    from medquant.bench.cluster import OnRay
    from medquant.bench.running import Locally
    from medquant.models.registry import choose_device

    if ray and device != usual:
        raise UserError("On a cluster --device has no say. Leave it out, and give GPUs with --gpus.")
    if gpus and not ray:
        raise UserError("--gpus is of tasks on a cluster. Give its address with --ray, or choose --device cuda.")
    if ray:
        return OnRay(ray, gpus, threads or 1)
    return Locally(folder / "models", str(choose_device(device)), threads or torch.get_num_threads())


def run_cells(
    told: Session, title: str, plan: Callable[[Progress], Sequence[AnyCell]], folder: Path, runner: Locally | OnRay
) -> tuple[Sequence[AnyCell], list[dict[str, Any]], dict[str, UserError]]:
    """The cells, the rows of those that are measured, and by key of a cell what failed, which is told.

    What `folder` has is not measured again. Raises `UserError` where there is no row at all, and `Cancelled`.
    """
    from medquant.bench.records import Records
    from medquant.bench.running import failures, run
    from medquant.progress import Progress

    with told.track(title) as (progress, cancelled):
        tracker = Progress(progress, cancelled)
        tracker.report(0.0, "Reading models and cases")
        cells = plan(tracker)
        try:
            rows, failed = run(cells, Records(folder), runner, tracker)
        except Cancelled as error:
            raise Cancelled("Stopped. Finished cells are kept: the same command goes on after them.") from error
    for failure in failures(cells, failed):
        told.say(escape(f"Not measured: {failure}"))
    if not rows:
        raise UserError("No cell could be measured. Correct what is said above and run again.")
    return cells, rows, failed


def failed_cells(cells: Sequence[BenchmarkCell], failed: dict[str, UserError]) -> dict[str, str]:
    """What failed in words, by the words for the cell: for `--json`."""
    return {cell.describe(): str(failed[cell.key]) for cell in cells if cell.key in failed}
