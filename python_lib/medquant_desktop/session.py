"""Save and reopen everything: scan, boxes, masks, results, choices and views in one `.mrb` file, the format of Slicer.

MRML lives in the GUI thread, which writes it in small steps. Scans, packing and unpacking, which take the time, are the
business of a thread. What lies on the disk meanwhile holds a patient's scan, and is removed whatever happens.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import slicer
from PySide6.QtCore import QTimer

from medquant.errors import UserError
from medquant.files import atomic_path
from medquant_desktop.session_writer import Scan, writing

POLL_MS = 30
LEVEL = 1
"""Of compression: scans gain little by more, and it takes three times as long."""
PIECE_BYTES = 4_000_000
INSIDE = "session"
"""In the private folder."""
NOT_A_SESSION = "{} is not a session or is damaged. Choose an .mrb file that was saved here or in 3D Slicer."
NOT_WRITTEN = "The session was not saved: {}. Free some space there and try again."


def save(path: Path, done: Callable[[str], None]) -> None:
    """Save the scene; `done` gets an error for the user, or "" where it went well."""
    from MedQuantSlicerLib.private_folder import PrivateFolder
    from MedQuantSlicerLib.turns import Turns

    private = PrivateFolder("session")
    inside = private.path / INSIDE / path.stem
    inside.mkdir(parents=True)

    def finish(error: str) -> None:
        private.remove()
        done(error)

    def failed(error: Exception) -> None:
        finish(NOT_WRITTEN.format(getattr(error, "strerror", None) or error))

    Turns(writing(inside), lambda scans: _in_background(lambda: _pack(path, inside, scans), finish), failed)


def _pack(path: Path, inside: Path, scans: list[Scan]) -> None:
    """The written files and the scans, in one file."""
    with atomic_path(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as to:
        for file in sorted(inside.rglob("*")):
            if file.is_file():
                to.write(file, file.relative_to(inside.parent))
        for scan in scans:
            voxels = memoryview(scan.array.reshape(-1)).cast("B")
            with to.open(f"{inside.name}/{scan.name}", "w", force_zip64=True) as stream:
                stream.write(scan.header)
                for start in range(0, len(voxels), PIECE_BYTES):
                    stream.write(voxels[start : start + PIECE_BYTES])


def load(path: Path, may_go: Callable[[], bool], done: Callable[[str], None]) -> Callable[[], None]:
    """Put a session in place of the scene, once all of it was read, if that `may_go` then; `done` gets an error for the
    user, or "".

    What is returned gives it up, at any time: nothing is called then, and nothing stays on the disk.
    """
    from MedQuantSlicerLib.private_folder import PrivateFolder

    private, given_up = PrivateFolder("session"), threading.Event()
    folder, scenes = private.path / INSIDE, []

    def unpack() -> None:
        try:
            if _unpack(path, folder, given_up):
                scenes.append(_scene_in(folder))
        except (zipfile.BadZipFile, EOFError, ElementTree.ParseError, ValueError) as error:
            raise UserError(NOT_A_SESSION.format(path.name)) from error

    def finish(error: str) -> None:
        try:
            if not error:
                if not may_go():
                    return
                slicer.mrmlScene.Clear(False)
                slicer.mrmlScene.SetURL(str(scenes[0]))
                if not slicer.mrmlScene.Import():
                    error = f"Not all of {path.name} could be read. What could be is shown."
        finally:
            private.remove()
        done(error)

    wait = _in_background(unpack, finish)

    def give_up() -> None:
        given_up.set()
        wait()
        private.remove()

    return give_up


def _unpack(path: Path, folder: Path, given_up: threading.Event) -> bool:
    """Unpack into a new folder; False where that was given up meanwhile, which a large scan notices in the middle."""
    with zipfile.ZipFile(path) as packed:
        for member in packed.infolist():
            target = (folder / member.filename).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise ValueError(f"{member.filename} would lie elsewhere")
            if member.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(member) as source, target.open("wb") as to:
                while piece := source.read(PIECE_BYTES):
                    if given_up.is_set():
                        return False
                    to.write(piece)
    return True


def _scene_in(folder: Path) -> Path:
    """The scene of an unpacked session. Raises `ValueError` and `ParseError` where it cannot be one."""
    scenes = sorted(folder.glob("*/*.mrml")) + sorted(folder.glob("*.mrml"))
    if not scenes:
        raise ValueError("there is no scene")
    root = ElementTree.parse(scenes[0]).getroot()
    named = [name for one in root.iter("VolumeArchetypeStorage") if (name := one.get("fileName"))]
    if named and not any((scenes[0].parent / unquote(name)).is_file() for name in named):
        raise ValueError("there is no scan")
    return scenes[0]


def results() -> dict[str, object]:
    """What would be lost with the scene, by what it is: another answer than before means that something has changed."""
    from MedQuantSlicerLib import boxes, masks
    from MedQuantSlicerLib.host import COMPARISON, FP32, QUANTIZED
    from MedQuantSlicerLib.mask_states import MaskStates
    from MedQuantSlicerLib.results_host import KEPT_ATTRIBUTES

    states = MaskStates()
    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    # The difference follows from these: to look at it changes nothing.
    own = [node for node in segmentations if node.GetAttribute(masks.KIND_ATTRIBUTE) in (FP32, QUANTIZED)]
    compared = {node.GetID(): text for node in own if (text := node.GetAttribute(KEPT_ATTRIBUTES[COMPARISON]))}
    drawn = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
        if node.GetAttribute(boxes.BOX_ATTRIBUTE) and node.GetNumberOfDefinedControlPoints() > 0
    ]
    return {
        "masks": {node.GetID(): states.of(node) for node in own},
        "boxes": {node.GetID(): (node.GetName(), *node.GetCenter(), *node.GetSize()) for node in drawn},
        "a comparison": compared,
    }


_running: set[QTimer] = set()


def _in_background(work: Callable[[], None], finish: Callable[[str], None]) -> Callable[[], None]:
    """Do something in a thread, then call `finish` in the GUI thread with an error for the user or "".

    What is returned waits for the end of the thread; `finish` is not called any more then.
    """
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

    def end() -> None:
        timer.stop()
        _running.discard(timer)
        thread.join()

    def look() -> None:
        if thread.is_alive():
            return
        end()
        finish(outcome[0] if outcome else "Something went wrong while the file was read or written. Try again.")

    timer.timeout.connect(look)
    _running.add(timer)
    thread.start()
    timer.start()
    return end
