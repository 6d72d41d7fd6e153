"""`medquant worker`: the engine for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medquant.commands import options as o

EXAMPLES = o.examples("medquant worker --folder /tmp/exchange")


def worker(
    folder: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where arrays are exchanged. (default: a new temporary one)")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Leave the folder alone unless its file `token` says this."),
    ] = None,
) -> None:
    """Answer requests of another program, such as the panel: lines of JSON on standard input and output.

    It ends when standard input does. The protocol is described in docs/worker.md.
    """
    from medquant.worker.process import serve

    serve(None if folder is None else Path(folder), token)
