"""The models on this machine: weights that are added or fetched, files that are written, what is cleared away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.questions import Questions
from MedQuantSlicerLib.state import State
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class ModelWork:
    """Brings models in, and out."""

    def __init__(self, works: Works, keeping: Keeping, questions: Questions) -> None:
        self._works, self._facts, self._keeping, self._questions = works, works.facts, keeping, questions

    def add_weights(self, path: str) -> None:
        """A file or folder of the user's: MedSAM, nnU-Net results, a quantized model. It is listed and, unless this was
        cancelled, chosen."""

        def listed(result: Told) -> None:
            told = result["model"]
            self._questions.listed(told)
            self._facts.notice = ("model", m.added(told["title"]))

        def known(result: Told) -> None:
            listed(result)
            self._facts.model = result["model"]["spec"]
            self._questions.sizes()

        how = {"state": State.DOWNLOADING, "late": listed}
        self._works.run("add_weights", "model", "add_weights", {"path": path}, known, **how)

    def download(self) -> None:
        """Fetch the chosen model, after a question that says how much and from where."""
        line = self._facts.line
        if line is None or not self._works.host.confirm(m.ask_download(line.title, line.size)):
            return

        def known(result: Told) -> None:
            self._questions.listed(result["model"])
            self._facts.notice = ("model", m.downloaded(line.title))
            self._questions.sizes()

        self._works.run("download", "model", "download", {"model": line.spec}, known, late=known)

    def export(self, format: str, folder: str) -> None:
        """Write the quantized model to a new folder inside `folder`."""
        latest = self._facts.latest
        params = {"handle": latest.handle if latest else "", "format": format or "artifact", "folder": folder}

        def known(result: Told) -> None:
            self._facts.exported = result["folder"]
            self._facts.exported_models.add(params["handle"])
            self._facts.notice = ("export", m.saved(result["folder"]))

        self._works.run("export", "export", "export", params, known, late=known)

    def clear_cache(self) -> None:
        """Remove what was compiled and quantized (downloads and exports stay), after a question."""
        if self._works.can("clear_cache") and self._works.host.confirm(m.ask_clear(self._facts.cache)):
            self._questions.ask("cache", self._cleared, {"clear": True})

    def _cleared(self, told: Told) -> None:
        self._questions.cache_known(told)
        self._facts.made = {made: one for made, one in self._facts.made.items() if Path(one.handle).is_file()}
        self._keeping.keep_choices()
