"""What the engine needs inside Slicer's Python, and how it gets there: asked for once, installed in the background."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable
from pathlib import Path

import slicer

from MedQuantSlicerLib.host import Missing
from MedQuantSlicerLib.installation import Installation, slicer_packaging, version_of
from MedQuantSlicerLib.messages import _

LOOK_AGAIN_SECONDS = 5.0


class EnginePackages:
    """`requirements` is the path of `requirements.txt`."""

    def __init__(self, requirements: str) -> None:
        self._requirements = Path(requirements)
        self._installation: Installation | None = None
        self._looked: tuple[float, Missing | None] | None = None

    def missing(self) -> Missing | None:
        """What is not installed; looking imports nothing. What is there stays, what is not is looked for again."""
        now = time.monotonic()
        if self._looked is None or (self._looked[1] is not None and now - self._looked[0] > LOOK_AGAIN_SECONDS):
            self._looked = now, self._look()
        return self._looked[1]

    def _look(self) -> Missing | None:
        packages, needs_torch = self._missing_packages(), _torch_is_missing()
        if not packages and not needs_torch:
            return None
        parts = []
        if needs_torch:
            parts.append(_("PyTorch for this computer (0.2 to 3 GB, from PyTorch's own server)"))
        if packages:
            parts.append(_("{names} (about 400 MB, from the Python Package Index)").format(names=", ".join(packages)))
        text = _(
            "MedQuant needs packages that are not installed yet: {parts}. They are added to Slicer's own Python. "
            "Proxy and offline folder are those of pip's settings (PIP_PROXY, PIP_FIND_LINKS). Install them now?"
        )
        return Missing(text.format(parts="; ".join(parts)))

    def install(
        self, on_progress: Callable[[str], None], on_done: Callable[[], None], on_error: Callable[[str, str], None]
    ) -> None:
        """See `Host.install`."""
        packaging = slicer_packaging()
        if packaging is None:
            on_error(_("This Slicer cannot install packages in the background. Use Slicer 5.12 or later."), "")
        elif slicer.app.testingEnabled():
            on_error(_("Packages are missing, and Slicer installs none while it tests. Start it as usual."), "")
        elif self._is_busy() or packaging.isPipInstallInProgress():
            on_error(_("An installation is still under way. Wait until it has ended and press the button again."), "")
        else:
            self._looked = None
            packages, needs_torch = self._missing_packages(), _torch_is_missing()
            self._installation = Installation(packages, needs_torch, on_progress, self._then(on_done), on_error)
            self._installation.start()

    def cancel(self) -> None:
        """The step that is under way ends by itself; no further one is begun, and nobody waits for it."""
        if self._installation is not None:
            self._installation.cancel()

    # -- inside

    def _is_busy(self) -> bool:
        return self._installation is not None and not self._installation.ended

    def _then(self, on_done: Callable[[], None]) -> Callable[[], None]:
        def look_and_go_on() -> None:
            self._looked = None
            on_done()

        return look_and_go_on

    def _missing_packages(self) -> list[str]:
        lines = self._requirements.read_text(encoding="utf-8").splitlines()
        wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith(("#", "-"))]
        packaging = slicer_packaging()
        if packaging is None:
            return [line for line in wanted if not version_of(re.match(r"[\w.-]+", line).group())]
        return [line for line in wanted if not packaging.pip_check(line)]


def _torch_is_missing() -> bool:
    """Looked for without importing it: the panel's process never does."""
    return importlib.util.find_spec("torch") is None
