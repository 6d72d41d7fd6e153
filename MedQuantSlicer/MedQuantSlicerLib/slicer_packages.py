"""What the engine needs inside Slicer's Python, and how it gets there: asked for once, installed in the background.

PyTorch comes from the PyTorch extension, which knows the computer's graphics card; everything else from
`requirements.txt`, without replacing what Slicer itself brings.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import slicer

from MedQuantSlicerLib.host import Missing
from MedQuantSlicerLib.messages import _

PINNED = ("SimpleITK", "numpy", "requests", "scipy", "torch", "vtk")
"""Packages that pip must leave as they are: replacing Slicer's own breaks it."""
LOOK_AGAIN_SECONDS = 5.0
_log = logging.getLogger("medquant.panel")


class EnginePackages:
    """`requirements` is the path of `requirements.txt`."""

    def __init__(self, requirements: str) -> None:
        self._requirements = Path(requirements)
        self._cancelled = False
        self._looked: tuple[float, Missing | None] | None = None

    def missing(self) -> Missing | None:
        """What is not installed; looking imports nothing. What is there stays, what is not is looked for again."""
        if slicer.app.testingEnabled():
            return None
        now = time.monotonic()
        if self._looked is None or (self._looked[1] is not None and now - self._looked[0] > LOOK_AGAIN_SECONDS):
            self._looked = now, self._look()
        return self._looked[1]

    def _look(self) -> Missing | None:
        packages = self._missing_packages()
        needs_torch = importlib.util.find_spec("torch") is None
        if not packages and not needs_torch:
            return None
        parts = []
        if needs_torch:
            parts.append(_("PyTorch (0.2 to 3 GB, by Slicer's PyTorch extension)"))
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
        self._cancelled = False
        if importlib.util.find_spec("torch") is None:
            problem = self._install_torch(on_progress)
            if problem:
                on_error(problem, "")
                return
        self._looked = None
        packages = self._missing_packages()
        if not packages:
            on_done()
            return
        self._pip(packages, on_progress, on_done, on_error)

    def cancel(self) -> None:
        """What pip has begun it ends, but nobody waits for it any longer."""
        self._cancelled = True

    # -- inside

    def _missing_packages(self) -> list[str]:
        lines = self._requirements.read_text(encoding="utf-8").splitlines()
        wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith(("#", "-"))]
        packaging = getattr(slicer, "packaging", None)
        if packaging is not None and hasattr(packaging, "pip_check"):
            return [line for line in wanted if not packaging.pip_check(line)]
        return [line for line in wanted if not _is_there(re.match(r"[\w.-]+", line).group())]

    def _install_torch(self, on_progress: Callable[[str], None]) -> str:
        """Install PyTorch; gives what went wrong, or nothing."""
        on_progress(_("Installing PyTorch"))
        if importlib.util.find_spec("PyTorchUtils") is None:
            return self._offer_extension()
        import PyTorchUtils

        try:
            done = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True)
        except Exception as error:  # it tells what happened by any kind of exception
            _log.exception("PyTorch was not installed")
            return _("PyTorch could not be installed: {reason}. See the module PyTorch Utils.").format(reason=error)
        return "" if done is not None else _("PyTorch was not installed. Press the button again to install it.")

    def _offer_extension(self) -> str:
        """An archive that is installed from a file does not bring the extensions that it depends on."""
        manager = slicer.app.extensionsManagerModel()
        question = _("The PyTorch extension is missing. Install it and restart Slicer?")
        if manager is None or not slicer.util.confirmOkCancelDisplay(question):
            return _("The PyTorch extension is missing. Install it with the Extensions Manager, then restart Slicer.")
        manager.interactive = False
        if not manager.installExtensionFromServer("PyTorch", True):
            return _("The PyTorch extension could not be installed. Install it with the Extensions Manager.")
        return _("The PyTorch extension is installed. Restart Slicer, then press the button again.")

    def _pip(
        self,
        packages: list[str],
        on_progress: Callable[[str], None],
        on_done: Callable[[], None],
        on_error: Callable[[str, str], None],
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="medquant-install-"))
        log, constraints = folder / "install.log", folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={found}\n" for name in PINNED if (found := _version(name))))

        def ended(code: int) -> None:
            importlib.invalidate_caches()
            self._looked = None
            if self._cancelled:
                return
            if code == 0:
                on_done()
            else:
                on_error(_("Packages could not be installed. The log says why; check network and proxy."), str(log))

        def line(text: str) -> None:
            with log.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
            if not self._cancelled and text.strip():
                on_progress(_in_words(text))

        packaging = getattr(slicer, "packaging", None)
        if packaging is not None and hasattr(packaging, "pip_install"):
            packaging.pip_install(
                packages,
                constraints=str(constraints),
                blocking=False,
                show_progress=False,
                requester="MedQuant",
                logCallback=line,
                completedCallback=ended,
            )
            return
        # Before Slicer 5.12 installing waits.
        try:
            slicer.util.pip_install([*packages, "-c", str(constraints)])
        except Exception as error:
            line(str(error))
            ended(1)
        else:
            ended(0)


def _in_words(line: str) -> str:
    """A line of pip's, short."""
    found = re.match(r"\s*(Collecting|Downloading|Installing collected packages:?)\s+(\S+)", line)
    if found is None:
        return _("Installing packages")
    verb, what = found.groups()
    name = what.rsplit("/", 1)[-1].split("-")[0].rstrip(",")
    return _("Installing packages") if verb.startswith("Installing") else _("Fetching {name}").format(name=name)


def _is_there(name: str) -> bool:
    return bool(_version(name))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
