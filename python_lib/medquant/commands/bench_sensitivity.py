"""`medquant bench sensitivity`: how long the map of layers takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from medquant.commands import options as o
from medquant.commands.session import Session, session
from medquant.commands.tables import plain_table
from medquant.evaluation import wording

EPILOG = o.examples("medquant bench sensitivity --network nnunet --json sensitivity.json")


def sensitivity(
    networks: Annotated[
        list[str] | None,
        typer.Option("--network", help="embedded, nnunet or sam-vit-b. Repeatable; all if not given."),
    ] = None,
    json_target: o.Json = None,
) -> None:
    """Time how long it takes to find the sensitive layers at 2, 4 and 8 bits, on one slice or patch.

    The embedded model, an nnU-Net of usual size (31 million parameters, 96^3) and MedSAM's network; the last two have
    random weights. Takes some twenty minutes on two cores.
    """
    from medquant.bench import sensitivity_time as bench

    with session(json_target) as run:
        chosen = {"networks": tuple(networks)} if networks else {}
        with run.track("Sensitivity") as (progress, cancelled):
            rows = bench.run(**chosen, progress=progress, cancelled=cancelled)
        _show(run, rows)
        run.finish(rows)


def _show(run: Session, rows: list[dict[str, Any]]) -> None:
    table = plain_table("network", "view", "layers", "cells", "first", "all", "memory", text=2)
    for row in rows:
        table.add_row(
            row["network"],
            row["view"],
            str(row["layers"]),
            str(row["cells"]),
            *(wording.seconds(row[name]) for name in ("first_cell_seconds", "seconds")),
            wording.memory(row["peak_memory_mb"]),
        )
    run.console.print(table)
