"""One installation of the engine's packages: steps that follow each other, each a process that Slicer runs.

What Slicer itself brings is never replaced: pip first only says what it would install, and that, less Slicer's own
packages, is then installed without asking for anything else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer

from MedQuantSlicerLib.messages import _

SLICERS_OWN = ("numpy", "pip", "requests", "scipy", "SimpleITK", "torch", "torchvision", "vtk")
"""Packages that stay as they are. Another SimpleITK crashes Slicer, whose own has classes besides."""
PINNED = tuple(name for name in SLICERS_OWN if name != "SimpleITK")
"""Those whose versions others must do with. SimpleITK's is not asked for: builds of Slicer may name none, or one that
nnU-Net would refuse, and it works with either."""
TORCH_INSTALLER = "light-the-torch>=0.5"
"""Finds the build of PyTorch for the graphics card; Slicer's PyTorch extension uses it as well."""
Step = tuple[str, list[str]]
"""A Python module and its arguments."""
_log = logging.getLogger("medquant.panel")


class Installation:
    """Installs requirements, and with `torch` PyTorch before them; at the end it calls `on_done` or `on_error`."""

    def __init__(
        self,
        packages: list[str],
        torch: bool,
        on_progress: Callable[[str], None],
        on_done: Callable[[], None],
        on_error: Callable[[str, str], None],
    ) -> None:
        self._on_progress, self._on_done, self._on_error = on_progress, on_done, on_error
        self._folder = Path(tempfile.mkdtemp(prefix="medquant-install-"))
        self._log = self._folder / "install.log"
        self._log.touch()
        self._steps = self._plan(packages, torch)
        self._wanted = True
        self.ended = False
        """Whether none of its processes runs any longer; until then no other installation may begin."""

    def start(self) -> None:
        """Begin; everything else happens by callbacks."""
        self._next(0)

    def cancel(self) -> None:
        """The step that is under way ends by itself, no further one begins, nothing is called."""
        self._wanted = False

    def _plan(self, packages: list[str], torch: bool) -> Iterator[Step]:
        constraints, report = self._folder / "constraints.txt", self._folder / "report.json"
        held = "".join(f"{name}=={found}\n" for name in PINNED if (found := version_of(name)))
        constraints.write_text(held, encoding="utf-8")
        limits = ["-c", str(constraints)]
        if torch and os.environ.get("PIP_NO_INDEX"):
            yield "pip", ["torch", *limits]  # whoever filled the offline folder has chosen the build
        elif torch:
            yield "pip", [TORCH_INSTALLER, *limits]
            yield "light_the_torch", ["install", "torch", "torchvision", *limits]
        if torch and (found := version_of("torch")):  # known only now
            constraints.write_text(f"{held}torch=={found}\n", encoding="utf-8")
        if packages:
            yield "pip", ["--dry-run", "--report", str(report), *packages, *limits]
            if news := news_of(json.loads(report.read_text(encoding="utf-8"))):
                yield "pip", ["--no-deps", *news]

    def _next(self, code: int) -> None:
        """The step before ended with this exit code."""
        importlib.invalidate_caches()
        if not self._wanted:
            self.ended = True
            return
        try:
            if code:
                raise RuntimeError(f"exit code {code}")
            step = next(self._steps, None)
            if step is not None:
                self._run(*step)
        except Exception as error:  # whatever it is, the panel must not wait for ever
            _log.exception("Packages were not installed")
            self._note(str(error))
            self.ended = True
            self._on_error(
                _("Packages could not be installed. The log says why; check network and proxy."), str(self._log)
            )
            return
        if step is None:
            self.ended = True
            self._on_done()

    def _run(self, module: str, arguments: list[str]) -> None:
        told = {"blocking": False, "logCallback": self._line, "completedCallback": self._next}
        if module == "pip":
            slicer_packaging().pip_install(arguments, show_progress=False, requester="MedQuant", **told)
        else:
            slicer.util.executePythonModule(module, arguments, **told)

    def _line(self, text: str) -> None:
        self._note(text)
        if self._wanted and text.strip():
            self._on_progress(in_words(text))

    def _note(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def slicer_packaging() -> Any:
    """Slicer's package installer; None before Slicer 5.12."""
    try:
        return importlib.import_module("slicer.packaging")  # Slicer itself does not import it
    except ImportError:
        return None


def news_of(report: dict) -> list[str]:
    """What pip would install, as exact requirements, less what Slicer brings."""
    kept = {_normal(name) for name in SLICERS_OWN}
    found = [(entry["metadata"]["name"], entry["metadata"]["version"]) for entry in report["install"]]
    return [f"{name}=={version}" for name, version in found if _normal(name) not in kept]


def version_of(name: str) -> str:
    """Of an installed package; empty where it is not, or does not say."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def in_words(line: str) -> str:
    """A line of pip's, short."""
    found = re.match(r"\s*(Collecting|Downloading|Installing collected packages:?)\s+(\S+)", line)
    if found is None:
        return _("Installing packages")
    verb, what = found.groups()
    name = what.rsplit("/", 1)[-1].split("-")[0].rstrip(",")
    return _("Installing packages") if verb.startswith("Installing") else _("Fetching {name}").format(name=name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
