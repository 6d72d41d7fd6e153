"""A model as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medquant.evaluation import wording
from medquant.worker.unfinished import writing_in
from medquant.worker.work import Work


def export(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Write `handle` (or any model) as `format` to a new folder inside `folder`."""
    from medquant.commands.inputs import file_word
    from medquant.deploy.export.exporting import export as run_export

    model = work.warm.model(params["handle"], work.part(0.0, 0.05))
    rest, kind = work.part(0.05, 1.0), params["format"]
    folder = Path(params["folder"]).expanduser()
    with writing_in(folder, work.folder):
        made = run_export(
            model,
            _free(folder, f"{file_word(model.name)}-{kind}"),
            kind,
            progress=rest.callback,
            cancelled=rest.cancelled,
        )
    text = f"{model.name} as {made.format}, {wording.size(made.bytes_on_disk)}: {made.folder}"
    return {**made.to_dict(), "text": text}


def _free(parent: Path, name: str) -> Path:
    """A folder of that name that does not exist yet, numbered where it does."""
    number, folder = 1, parent / name
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder
