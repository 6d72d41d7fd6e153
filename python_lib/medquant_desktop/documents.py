"""What is opened and saved: scans, segmentations, sessions; one after the other, and what is told about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtWidgets import QFileDialog, QMessageBox

from medquant_desktop import menus, session
from medquant_desktop.opening import FILE_FILTER, Answer, Recent, ScanReader, is_session
from medquant_desktop.reference import add_reference
from medquant_desktop.scan_node import add_scan, grid_of
from medquant_desktop.welcome import series_entries

if TYPE_CHECKING:
    from medquant_desktop.window import Window

LAYERS, MODELS = "the sensitivity of layers", "quantized models"
NOT_ITS_SCAN = (
    "{} was read for the scan that was open before. Choose that scan again, then open the segmentation once more."
)
NAMED = 6
"""Structures of a reference that are told by name."""


class Documents:
    """Opens into a window, and saves from it."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.reader, self.recent = ScanReader(), Recent(window.settings)
        self._request: dict[str, Any] = {}
        self._onto: Any = None
        """The scan that was open when reading began: on its grid are the labels that are read."""
        self._stop_session: Callable[[], None] = lambda: None
        self._asked = ""
        self._path: Path | None = None
        self._waiting: list[Path] = []
        self._problems: list[str] = []
        """Of what was opened together with what waits."""
        self._kept: dict[str, object] = {}
        self._saving = False
        self._once_saved: Callable[[], None] = lambda: None

    # -- opening

    def ask_for_file(self) -> None:
        """Let the user choose a file to open."""
        path = _first(
            QFileDialog.getOpenFileName(self._window, "Open a scan, a segmentation or a session", "", FILE_FILTER)
        )
        if path:
            self.open_path(Path(path))

    def ask_for_folder(self) -> None:
        """Let the user choose a DICOM folder."""
        path = QFileDialog.getExistingDirectory(self._window, "Open a DICOM folder")
        if path:
            self.open_path(Path(path))

    def open_sample(self) -> None:
        """Open the CT phantom, which is made on the spot."""
        self._path, self._waiting, self._problems = None, [], []
        self._read({"sample": True}, "Making the sample CT")

    def open_paths(self, paths: Sequence[Path]) -> None:
        """Open several things, one after the other."""
        self._waiting, self._problems = list(paths), []
        self._open_next()

    def open_path(self, path: Path) -> None:
        """Open a scan, a DICOM folder, a segmentation of the scan that is open, or a session."""
        self.open_paths([path])

    def _open_next(self) -> None:
        if not self._waiting:
            if self._problems:
                self._window.notice.problem("\n".join(self._problems))
            return
        self._path = path = self._waiting.pop(0)
        if is_session(path):
            self._open_session(path)
            return
        request: dict[str, Any] = {"path": str(path)}
        self._onto = self._window.frame.volume
        if self._onto is not None:
            request["labels_on"] = grid_of(self._onto)
        self._read(request, f"Reading {path.name}")

    def _read(self, request: dict[str, Any], text: str) -> None:
        self._give_up()
        self._request = request
        self._window.notice.wait(text, self.cancel)
        self.reader.read(request, self._answered)

    def cancel(self) -> None:
        """Stop reading, whatever else was to be opened."""
        self._waiting, self._problems = [], []
        self._give_up()
        self._window.notice.clear()

    def _give_up(self) -> None:
        """What is being read or unpacked is not wanted any more: the latest that is opened is what is meant."""
        stop, self._stop_session = self._stop_session, lambda: None
        stop()
        if self.reader.busy:
            self.reader.cancel()

    def _answered(self, answer: Answer) -> None:
        self._window.notice.clear()
        kind = answer["kind"]
        if kind == "scan":
            self._add_scan(answer)
        elif kind == "labels":
            self._add_labels(answer, self._request["labels_on"])
        elif kind == "series":
            entries = series_entries(answer["series"])
            self._ask_which("series", f"{len(entries)} series in this folder. Which one?", entries)
        elif kind == "choice":
            what, count = answer["what"], answer["count"]
            words = {"component": "values for each voxel", "frame": "time points"}[what]
            entries = [(n, f"{what.capitalize()} {n + 1}", "") for n in range(count)]
            self._ask_which(what, f"This scan has {count} {words}. Which one?", entries)
        else:
            self._problems.append(answer["message"])
        self._opened(kind == "scan")
        if kind not in ("series", "choice"):
            self._open_next()

    def _ask_which(self, what: str, title: str, entries: list[tuple[int, str, str]]) -> None:
        self._asked = what
        self._window.ask(title, entries)

    def answered(self, answer: int) -> None:
        """The user has chosen one of what was asked for."""
        self._window.refresh()
        self._read({**self._request, self._asked: answer}, "Reading")

    def _opened(self, well: bool) -> None:
        if well and self._path is not None:
            self.recent.add(self._path)
            menus.show_recent(self._window)

    def _add_scan(self, answer: Answer) -> None:
        node = add_scan(answer)
        self._window.frame.choose(node)
        self._window.refresh()
        self._window.views.left.setFocus()
        if answer.get("told"):
            self._window.notice.tell(answer["told"])
        if "labels" in answer:
            self._onto = node
            self._add_labels(answer["labels"], grid_of(node))

    def _add_labels(self, answer: Answer, grid: dict[str, Any]) -> None:
        """Labels on this grid, which was that of the scan that was open when reading them began."""
        volume = self._window.frame.volume
        if volume is None or volume is not self._onto or grid_of(volume) != grid:
            self._problems.append(NOT_ITS_SCAN.format(answer["name"]))
            return
        names = {int(value): name for value, name in answer["names"].items()}
        node = add_reference(np.load(answer["array"], mmap_mode="r"), names, volume, answer["name"])
        self._window.frame.choose_reference(node)
        what = ", ".join(list(names.values())[:NAMED]) + (
            f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        )
        self._window.notice.tell(f"{answer['name']}: the reference to compare with, {what}.")

    # -- sessions

    def ask_where_to_save(self, then: Callable[[], None] = lambda: None) -> None:
        """Save the session to a file that the user chooses; `then` once that went well."""
        path = _first(QFileDialog.getSaveFileName(self._window, "Save the session", "session.mrb", "Sessions (*.mrb)"))
        if path:
            self.save_session(Path(path), then)

    def save_session(self, path: Path, then: Callable[[], None] = lambda: None) -> None:
        """Save everything to one file, while the window goes on."""
        if self._saving:
            return
        path = path if is_session(path) else path.with_name(path.name + ".mrb")
        self._window.notice.wait(f"Saving {path.name}", None)
        self._saving, self._once_saved, kept = True, then, self._results()
        session.save(path, lambda error: self._saved(path, kept, error))

    def _saved(self, path: Path, kept: dict[str, object], error: str) -> None:
        self._saving, then = False, self._once_saved
        if error:
            self._window.notice.problem(error)
            return
        self._kept = kept
        self._window.notice.tell(f"Saved to {path}.")
        self.recent.add(path)
        menus.show_recent(self._window)
        then()

    def _open_session(self, path: Path) -> None:
        def again() -> None:
            self.open_path(path)

        def may_go() -> bool:
            """What has come while it was unpacked does not go without a question."""
            if not self._saving and self._results() == known:
                return True
            if not self._saving:
                self._window.notice.clear()
            return self.may_close(again)

        self._give_up()
        if self.may_close(again):
            known = self._results()
            self._window.notice.wait(f"Opening {path.name}", self.cancel)
            self._stop_session = session.load(path, may_go, self._session_loaded)

    def _session_loaded(self, error: str) -> None:
        self._stop_session = lambda: None
        self._window.notice.clear()
        if error:
            self._window.notice.problem(error)
        self._opened(not error)
        self._kept = self._results()
        # The views of the session are in the scene: where they were is read before they turn to the scan.
        offset = self._window.views.left.logic.GetSliceOffset()
        self._window.views.orientation = self._window.views.left.node.GetDefaultOrientation()
        self._window.refresh()
        if self._window.frame.volume is not None:
            self._window.views.left.go_to(offset)
            self._window.show_masks_again()

    def may_close(self, again: Callable[[], None]) -> bool:
        """Whether the scene may go: nothing in it is unsaved, or the user does not mind.

        Where it may not because it is being saved, or the user wishes that, `again` is called afterwards.
        """
        if self._saving:
            self._once_saved = again
            return False
        if not self.unsaved():
            return True
        answer = self.may_lose()
        if answer is None:
            self.ask_where_to_save(again)
        return bool(answer)

    def unsaved(self) -> list[str]:
        """What would be lost: neither in a session nor, of quantized models, exported."""
        results, kept = self._results(), self._kept
        models = results.pop(MODELS) - kept.get(MODELS, frozenset())
        lost = [what for what, held in results.items() if held and held != kept.get(what)]
        return lost + [MODELS] * bool(models)

    def may_lose(self) -> bool | None:
        """Ask whether what is not saved may go; None: save it first."""
        answers, unsaved = QMessageBox.StandardButton, self.unsaved()
        what = " and ".join(filter(None, (", ".join(unsaved[:-1]), unsaved[-1])))
        text = f"{what[0].upper()}{what[1:]} {'are' if len(unsaved) > 1 or what.endswith('s') else 'is'} not saved."
        buttons = answers.Save | answers.Discard | answers.Cancel
        answer = QMessageBox.question(self._window, "MedQuantSlicer", text, buttons, answers.Save)
        return {answers.Save: None, answers.Discard: True}.get(answer, False)

    def _results(self) -> dict[str, object]:
        """What would be lost with the scene and the panel, by what it is."""
        presenter = self._window.frame.presenter
        return {**session.results(), LAYERS: presenter.measured_layers(), MODELS: presenter.not_exported()}

    def close(self) -> None:
        """End what is being read or unpacked; nothing of it stays on the disk."""
        self._stop_session()
        self.reader.close()


def _first(answer: Any) -> str:
    return answer[0] if isinstance(answer, tuple) else answer
