"""The window: panel, views, menus; what is opened and saved, and where everything is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
from PySide6.QtCore import QSettings, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDragLeaveEvent, QDropEvent
from PySide6.QtWidgets import (
    QApplication,
    QFileDialog,
    QLabel,
    QMainWindow,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from medquant_desktop import about, linked_views, menus, session, theme
from medquant_desktop.difference_profile import profile
from medquant_desktop.linked_views import LinkedViews
from medquant_desktop.notice import Notice
from medquant_desktop.opening import FILE_FILTER, Answer, Recent, ScanReader, dropped_paths, is_session, what_to_open
from medquant_desktop.panel_frame import USUAL, PanelFrame
from medquant_desktop.reference import add_reference
from medquant_desktop.scan_node import add_scan, grid_of
from medquant_desktop.view_bar import ViewBar
from medquant_desktop.welcome import SeriesChoice, Welcome, series_entries

TITLE = "MedQuantSlicer"
SIZE = (1280, 800)
NAMED = 6
"""Structures of a reference that are told by name."""


class Window(QMainWindow):
    """Everything that is seen."""

    def __init__(self, application_logic: Any, settings: QSettings) -> None:
        super().__init__()
        self.setWindowTitle(TITLE)
        self.setAcceptDrops(True)
        self.resize(*SIZE)
        self.application_logic, self.settings = application_logic, settings
        self.reader, self.recent = ScanReader(), Recent(settings)
        self.views = LinkedViews(application_logic)
        self.welcome = Welcome(self.ask_for_file, self.ask_for_folder, self.open_sample)
        self.welcome.open_path = self.open_path
        self.choice = SeriesChoice(self._series_chosen, self._back)
        self.notice, self.bar = Notice(), ViewBar(self.views)
        shown = QWidget()
        column = QVBoxLayout(shown)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.bar)
        column.addWidget(self.views, 1)
        self.stack = QStackedWidget()
        for page in (self.welcome, self.choice, shown):
            self.stack.addWidget(page)
        self._pages = {"welcome": 0, "choice": 1, "views": 2}
        right = QWidget()
        column = QVBoxLayout(right)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.notice)
        column.addWidget(self.stack, 1)
        self.frame = PanelFrame(self.views, self.open_sample)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.addWidget(self.frame)
        splitter.addWidget(right)
        splitter.setChildrenCollapsible(False)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([USUAL, SIZE[0] - USUAL])
        self.setCentralWidget(splitter)
        self._probe = QLabel()
        self.views.told = self._probe.setText
        self.statusBar().addWidget(self._probe, 1)
        self.statusBar().addPermanentWidget(QLabel(about.NOT_CLINICAL))
        self.statusBar().setSizeGripEnabled(False)
        self.actions_by_name = menus.build(self)
        self._profile_of = ("", "")
        self._request: dict[str, Any] = {}
        self._path: Path | None = None
        self._watch_scene()
        self._refresh()

    # -- opening

    def ask_for_file(self) -> None:
        """Let the user choose a file to open."""
        path = _first(QFileDialog.getOpenFileName(self, "Open a scan, a segmentation or a session", "", FILE_FILTER))
        if path:
            self.open_path(Path(path))

    def ask_for_folder(self) -> None:
        """Let the user choose a DICOM folder."""
        path = QFileDialog.getExistingDirectory(self, "Open a DICOM folder")
        if path:
            self.open_path(Path(path))

    def open_sample(self) -> None:
        """Open the CT phantom, which is made on the spot."""
        self._path = None
        self._read({"sample": True}, "Making the sample CT")

    def open_path(self, path: Path) -> None:
        """Open a scan, a DICOM folder, a segmentation of the scan that is open, or a session."""
        self._path = path
        if is_session(path):
            self.notice.wait(f"Opening {path.name}", None)
            session.load(path, self._session_loaded)
            return
        request: dict[str, Any] = {"path": str(path)}
        if self.frame.volume is not None:
            request["labels_on"] = grid_of(self.frame.volume)
        self._read(request, f"Reading {path.name}")

    def _read(self, request: dict[str, Any], text: str) -> None:
        self._request = request
        self.notice.wait(text, self._cancel_reading)
        self.reader.read(request, self._answered)

    def _cancel_reading(self) -> None:
        self.reader.cancel()
        self.notice.clear()

    def _answered(self, answer: Answer) -> None:
        self.notice.clear()
        kind = answer["kind"]
        if kind == "scan":
            self._add_scan(answer)
        elif kind == "labels":
            self._add_labels(answer)
        elif kind == "series":
            entries = series_entries(answer["series"])
            self._ask_which("series", f"{len(entries)} series in this folder. Which one?", entries)
        elif kind == "choice":
            what, count = answer["what"], answer["count"]
            words = {"component": "values for each voxel", "frame": "time points"}[what]
            entries = [(n, f"{what.capitalize()} {n + 1}", "") for n in range(count)]
            self._ask_which(what, f"This scan has {count} {words}. Which one?", entries)
        else:
            self.notice.problem(answer["message"])
        self._opened(kind == "scan")

    def _ask_which(self, what: str, title: str, entries: list[tuple[int, str, str]]) -> None:
        self._asked = what
        self.choice.offer(title, entries)
        self.stack.setCurrentIndex(self._pages["choice"])

    def _series_chosen(self, answer: int) -> None:
        self._refresh()
        self._read({**self._request, self._asked: answer}, "Reading")

    def _back(self) -> None:
        self._refresh()

    def _opened(self, well: bool) -> None:
        if well and self._path is not None:
            self.recent.add(self._path)
            menus.show_recent(self)

    def _add_scan(self, answer: Answer) -> None:
        node = add_scan(answer)
        self.frame.choose(node)
        self._refresh()
        if "labels" in answer:
            self._add_labels(answer["labels"])

    def _add_labels(self, answer: Answer) -> None:
        names = {int(value): name for value, name in answer["names"].items()}
        labels = np.load(answer["array"], mmap_mode="r")
        node = add_reference(labels, names, self.frame.volume, answer["name"])
        self.frame.choose_reference(node)
        what = ", ".join(list(names.values())[:NAMED]) + (
            f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        )
        self.notice.tell(f"{answer['name']} is the reference now: {what}.")

    # -- sessions

    def ask_where_to_save(self) -> None:
        """Save the session to a file that the user chooses."""
        path = _first(QFileDialog.getSaveFileName(self, "Save the session", "session.mrb", "Sessions (*.mrb)"))
        if path:
            self.save_session(Path(path))

    def save_session(self, path: Path) -> None:
        """Save everything to one file."""
        path = path if is_session(path) else path.with_name(path.name + ".mrb")
        self.notice.wait(f"Saving {path.name}", None)
        # First the words, then the work.
        QTimer.singleShot(0, lambda: session.save(path, self.application_logic, lambda error: self._saved(path, error)))

    def _saved(self, path: Path, error: str) -> None:
        if error:
            self.notice.problem(error)
            return
        self.notice.tell(f"Saved to {path}.")
        self.recent.add(path)
        menus.show_recent(self)

    def _session_loaded(self, error: str) -> None:
        self.notice.clear()
        if error:
            self.notice.problem(error)
        self._opened(not error)
        # The views of the session are in the scene: where they were is read before they turn to the scan.
        offset = self.views.left.logic.GetSliceOffset()
        self.views.orientation = self.views.left.node.GetDefaultOrientation()
        self._refresh()
        if self.frame.volume is not None:
            self.views.left.go_to(offset)
            self._show_masks_again()

    def _show_masks_again(self) -> None:
        """The views that the masks of a session need."""
        from MedQuantSlicerLib import masks
        from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED

        there = {kind for kind in masks.VIEWS if masks.segmentation_of(kind, self.frame.volume) is not None}
        if there >= {FP32, QUANTIZED}:
            self.views.show_pair("", "")
        self.views.show_optional(linked_views.DIFFERENCE, DIFFERENCE in there)

    # -- what is shown

    def set_theme(self, name: str) -> None:
        """Dark or light."""
        self.settings.setValue("theme", name)
        theme.apply(QApplication.instance(), theme.THEMES[name])

    def _watch_scene(self) -> None:
        self._due = QTimer(self)
        self._due.setSingleShot(True)
        self._due.setInterval(0)
        self._due.timeout.connect(self._refresh)
        scene = slicer.mrmlScene
        self._tags = [
            scene.AddObserver(event, lambda *_: self._due.start())
            for event in (scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
        ]
        self.frame.changed = self._due.start
        self.frame.shown = self._panel_shown
        self.views.rearranged = self.bar.refresh
        self.bar.difference.clicked.connect(lambda *_: self.frame.presenter.difference())
        self.views.worst_button.clicked.connect(lambda *_: self.frame.presenter.jump_to_worst())

    def _panel_shown(self, shown: Any) -> None:
        """Follow what the panel says."""
        self.bar.follow(shown)
        self.views.worst_button.setVisible(bool(shown.worst) and shown.actions["jump_to_worst"].enabled)
        self.views.worst_button.setToolTip(shown.worst)
        self._show_profile()

    def _show_profile(self) -> None:
        """Over the slider: where the masks differ."""
        file = self.frame.presenter.difference_file()
        about = (file, self.views.orientation)
        if about != self._profile_of:
            self._profile_of = about
            self.views.show_differences(profile(file, self.views.left) if file else ())

    def _refresh(self) -> None:
        """Show the scan that is chosen in the panel."""
        volume = self.frame.volume
        if volume is not self.views.volume:
            self.views.show_volume(volume)
            self.setWindowTitle(f"{volume.GetName()} - {TITLE}" if volume is not None else TITLE)
        self.stack.setCurrentIndex(self._pages["views" if volume is not None else "welcome"])
        self.bar.refresh()
        if volume is None:
            self.welcome.show_recent(self.recent.paths())

    # -- Qt's events

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped_paths(event.mimeData()):
            event.acceptProposedAction()
            self.welcome.show_drag(True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self.welcome.show_drag(False)

    def dropEvent(self, event: QDropEvent) -> None:
        self.welcome.show_drag(False)
        path = what_to_open(dropped_paths(event.mimeData()))
        if path is not None:
            event.acceptProposedAction()
            self.open_path(path)

    def showEvent(self, event: object) -> None:
        # Its imports take a second: they begin once everything is on the screen.
        QTimer.singleShot(300, self.reader.start)

    def closeEvent(self, event: QCloseEvent) -> None:
        self.reader.close()
        self.frame.close_panel()
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        self.views.close_views()


def _first(answer: Any) -> str:
    return answer[0] if isinstance(answer, tuple) else answer
