"""`medquant series`: what a DICOM folder holds."""

from __future__ import annotations

from typing import Annotated

import typer

from medquant.commands import options as o
from medquant.commands.session import session

EXAMPLES = o.examples(
    "medquant series /data/patient",
)


def series(
    folder: Annotated[str, typer.Argument(help="A folder with DICOM files, subfolders included.")],
    json_target: o.Json = None,
) -> None:
    """List the series in a DICOM folder, to choose one by number or UID."""
    from medquant.imaging.reading import list_series

    with session(json_target) as run:
        found = list_series(folder)
        for one in found:
            run.console.print(str(one), markup=False, highlight=False, soft_wrap=True)
        fields = ("number", "uid", "description", "modality", "count", "size", "usable")
        run.finish({"series": [{name: getattr(one, name) for name in fields} for one in found]})
