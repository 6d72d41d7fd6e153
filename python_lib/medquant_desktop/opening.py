"""From a path to the scene: what is dropped, chosen or named, read by a process of its own, then shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QMimeData, QProcess, QProcessEnvironment, QSettings

from medquant_desktop.scan_reader import LABEL_NAME
from medquant_desktop.slicer_compat import bootstrap

RECENT = "recent"
KEPT_RECENT = 8
SESSION_SUFFIX = ".mrb"
DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".ima")
FILE_FILTER = "Scans, segmentations and sessions (*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd *.dcm *.mrb);;All files (*)"

Answer = dict[str, Any]


class ScanReader:
    """Runs `medquant_desktop.scan_reader`; one request at a time, a later one takes the place of an earlier one."""

    def __init__(self) -> None:
        bootstrap.add_module_path()
        from MedQuantSlicerLib.private_folder import PrivateFolder

        self._private = PrivateFolder("window")
        self.folder = self._private.path
        self._process: QProcess | None = None
        self._done: Callable[[Answer], None] | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process before it is needed, so that its imports cost nobody any time."""
        if self._process is not None or self._closed:
            return
        process = QProcess()
        settings = QProcessEnvironment.systemEnvironment()
        here = str(Path(__file__).resolve().parents[1])
        settings.insert("PYTHONPATH", os.pathsep.join(filter(None, (here, settings.value("PYTHONPATH")))))
        process.setProcessEnvironment(settings)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedErrorChannel)
        process.readyReadStandardOutput.connect(self._hear)
        process.finished.connect(self._ended)
        self._process = process
        process.start(sys.executable, ["-m", "medquant_desktop.scan_reader"])

    def read(self, request: dict[str, Any], done: Callable[[Answer], None]) -> None:
        """Read something; `done` gets the answer, unless `cancel` or another `read` comes before."""
        if self._done is not None:
            self.cancel()
        self.start()
        self._done = done
        line = json.dumps({**request, "folder": str(self.folder)}) + "\n"
        self._process.write(line.encode())

    @property
    def busy(self) -> bool:
        """Whether something is being read."""
        return self._done is not None

    def cancel(self) -> None:
        """Stop reading; nothing is answered."""
        self._done = None
        self._kill()

    def close(self) -> None:
        """End the process and remove its folder."""
        self._closed = True
        self.cancel()
        self._private.remove()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.finished.disconnect(self._ended)
            process.kill()
            process.waitForFinished(500)

    def _hear(self) -> None:
        while self._process is not None and self._process.canReadLine():
            answer = json.loads(bytes(self._process.readLine().data()))
            done, self._done = self._done, None
            if done is not None:
                done(answer)

    def _ended(self, *_: object) -> None:
        self._process = None
        done, self._done = self._done, None
        if done is not None:
            message = "Reading stopped, probably for want of memory. Close other programs and open the scan again."
            done({"kind": "error", "message": message})


def dropped_paths(mime: QMimeData) -> list[Path]:
    """The files and folders that are dragged."""
    return [Path(url.toLocalFile()) for url in mime.urls() if url.isLocalFile()]


def what_to_open(paths: Sequence[Path]) -> list[Path]:
    """What was dropped, in the order in which it is opened: scans, then the segmentations that lie on them.

    Many DICOM files of one folder mean their folder; a session comes alone.
    """
    sessions = [path for path in paths if is_session(path)]
    if sessions:
        return sessions[:1]
    folders = {path.parent for path in paths}
    dicom = [path for path in paths if not path.is_dir() and path.suffix.lower() in DICOM_SUFFIXES]
    if len(paths) > 1 and len(folders) == 1 and len(dicom) == len(paths):
        return [folders.pop()]
    return sorted(paths, key=lambda path: bool(LABEL_NAME.search(path.name.lower())))


def is_session(path: Path) -> bool:
    """Whether a file is a saved session."""
    return path.suffix.lower() == SESSION_SUFFIX


class Recent:
    """The files and folders that were opened last, those that still exist."""

    def __init__(self, settings: QSettings) -> None:
        self._settings = settings

    def paths(self) -> list[Path]:
        """The latest first."""
        stored = self._settings.value(RECENT) or []
        return [Path(text) for text in ([stored] if isinstance(stored, str) else stored) if Path(text).exists()]

    def add(self, path: Path) -> None:
        """One was opened."""
        path = path.expanduser().resolve()
        kept = [path, *(other for other in self.paths() if other != path)][:KEPT_RECENT]
        self._settings.setValue(RECENT, [str(one) for one in kept])

    def clear(self) -> None:
        """Forget them all."""
        self._settings.remove(RECENT)
