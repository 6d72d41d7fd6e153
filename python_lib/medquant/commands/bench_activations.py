"""`medquant bench activations`: kurtosis and arithmetic of the networks that are at hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from medquant.commands import options as o
from medquant.commands.inputs import data_folder
from medquant.commands.session import Session, session
from medquant.commands.tables import plain_table

if TYPE_CHECKING:
    from medquant.bench.activations import Row

EPILOG = o.examples("medquant bench activations --data FOLDER --json activations.json")


def activations(
    data: Annotated[
        str | None,
        typer.Option(envvar="MEDQUANT_TEST_DATA", help="Folder of the real scans and weights; without it the phantom."),
    ] = None,
    json_target: o.Json = None,
) -> None:
    """Tell in how many layers kurtosis within channels is above that across them, and where the arithmetic goes.

    The embedded networks on the phantom; with --data on a real scan too, and a network with public weights. Takes some
    three minutes.
    """
    from medquant.bench import activations as bench

    with session(json_target) as run:
        folder = None if data is None else data_folder(data)
        with run.track("Activations") as (progress, cancelled):
            rows = bench.run(data=folder, progress=progress, cancelled=cancelled)
        _show(run, rows)
        run.finish([asdict(row) for row in rows])


def _show(run: Session, rows: list[Row]) -> None:
    kinds = ("convolution", "linear", "attention")
    titles = ("layers", "within >\nacross", "convo-\nlutions", "linear", "median\nwithin", "median\nacross", "GFLOPs")
    table = plain_table("network, scan", *titles)
    for row in rows:
        table.add_row(
            f"{row.network}, {row.scan}",
            str(row.layers),
            *("" if part is None else f"{part:.0%}" for part in (row.within_above_across, row.of_convolutions)),
            "" if row.of_linear is None else f"{row.of_linear:.0%}",
            *(f"{value:.1f}" for value in (row.within, row.across)),
            " + ".join(f"{row.gflops[kind]:.2g}" for kind in kinds if kind in row.gflops),
        )
    run.console.print(table)
    run.say("GFLOPs of convolutions + linear layers + attention, without those that there are none of.")
