"""Save and reopen everything: scan, boxes, masks, choices and views in one `.mrb` file, the format of Slicer.

MRML is written and read in the GUI thread, where it lives, but uncompressed and on the local disk; packing and
unpacking, which take the time, are done by a thread.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import QTimer

from medquant.errors import UserError
from medquant.files import atomic_path

POLL_MS = 30
LEVEL = 1
"""Of compression: scans gain little by more, and it takes three times as long."""
NOT_A_SESSION = "{} is not a session or is damaged. Choose an .mrb file that was saved here or in 3D Slicer."


def save(path: Path, application_logic: Any, done: Callable[[str], None]) -> None:
    """Save the scene; `done` gets an error for the user, or "" where it went well."""
    from MedQuantSlicerLib import mask_views

    folder = Path(tempfile.mkdtemp(prefix="medquant-session-"))
    inside = folder / path.stem
    inside.mkdir()
    for node in _storable():
        node.AddDefaultStorageNode()
        if node.GetStorageNode() is not None:
            node.GetStorageNode().SetUseCompression(False)
    with mask_views.drawn_everywhere():
        written = application_logic.SaveSceneToSlicerDataBundleDirectory(str(inside), None)
    if not written:
        shutil.rmtree(folder, ignore_errors=True)
        done(f"The session cannot be written to {folder.parent}. Free some space there and try again.")
        return

    def pack() -> None:
        with atomic_path(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as to:
            for file in sorted(inside.rglob("*")):
                if file.is_file():
                    to.write(file, file.relative_to(folder))

    def finish(error: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        done(error)

    _in_background(pack, finish)


def load(path: Path, done: Callable[[str], None]) -> None:
    """Put a session in place of the scene; `done` gets an error for the user, or "" where it went well."""
    folder = Path(tempfile.mkdtemp(prefix="medquant-session-"))

    def unpack() -> None:
        try:
            with zipfile.ZipFile(path) as packed:
                packed.extractall(folder)
        except (zipfile.BadZipFile, EOFError) as error:
            raise UserError(NOT_A_SESSION.format(path.name)) from error

    def finish(error: str) -> None:
        scenes = sorted(folder.glob("*/*.mrml")) + sorted(folder.glob("*.mrml"))
        if not error and not scenes:
            error = NOT_A_SESSION.format(path.name)
        if not error:
            slicer.mrmlScene.Clear(False)
            slicer.mrmlScene.SetURL(str(scenes[0]))
            if not slicer.mrmlScene.Import():
                error = f"Not all of {path.name} could be read. What could be is shown."
        shutil.rmtree(folder, ignore_errors=True)
        done(error)

    _in_background(unpack, finish)


def results() -> dict[str, object]:
    """Masks and boxes of the scene, and in what state: another answer than before means that something changed."""
    from MedQuantSlicerLib import boxes, masks

    found: dict[str, object] = {}
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if masks.is_own(node):
            found[node.GetID()] = node.GetSegmentation().GetMTime()
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        if node.GetAttribute(boxes.BOX_ATTRIBUTE):
            found[node.GetID()] = (*node.GetCenter(), *node.GetSize())
    return found


def _storable() -> list[Any]:
    """Nodes whose contents go to files of their own."""
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLModelNode")
    return [node for kind in kinds for node in slicer.util.getNodesByClass(kind)]


_running: set[QTimer] = set()


def _in_background(work: Callable[[], None], finish: Callable[[str], None]) -> None:
    """Do something in a thread, then call `finish` in the GUI thread with an error for the user or ""."""
    outcome: list[str] = []

    def run() -> None:
        try:
            work()
            outcome.append("")
        except UserError as error:
            outcome.append(str(error))
        except OSError as error:
            outcome.append(f"{error.strerror or error}. Check the disk and that you may write there.")

    thread = threading.Thread(target=run, daemon=True)
    timer = QTimer()
    timer.setInterval(POLL_MS)

    def look() -> None:
        if thread.is_alive():
            return
        timer.stop()
        _running.discard(timer)
        finish(outcome[0] if outcome else "Something went wrong while the file was read or written. Try again.")

    timer.timeout.connect(look)
    _running.add(timer)
    thread.start()
    timer.start()
