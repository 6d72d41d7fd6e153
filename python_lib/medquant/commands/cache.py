"""`medquant cache`: what is kept on this machine to start faster."""

from __future__ import annotations

from typing import Annotated

import typer

from medquant.commands import options as o
from medquant.commands.session import session, strong

EXAMPLES = o.examples("medquant cache", "medquant cache --clear")


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all but downloaded weights.")] = False,
    json_target: o.Json = None,
) -> None:
    """Show or clear what medquant keeps: models compiled for this machine, which runtime was chosen for them, and
    models that were quantized in the panel.

    Nothing here is needed: what is cleared is made again when it is wanted. Weights that were downloaded stay; they
    are shown with their folder.
    """
    from medquant.deploy.kept import clear_kept, kept
    from medquant.evaluation import wording

    with session(json_target) as run:
        freed = clear_kept() if clear else None
        if freed is not None:
            run.say(f"Cleared: {wording.size(freed) if freed else 'nothing was there'}.")
        entries = kept()
        for entry in entries:
            run.say(f"{entry.title}: {entry.count}, {wording.size(entry.bytes) if entry.count else '0 kB'}")
            run.say(f"    {strong(entry.folder)}")
        run.finish({"freed_bytes": freed, "kept": [entry.to_dict() for entry in entries]})
