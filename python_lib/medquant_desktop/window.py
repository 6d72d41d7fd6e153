"""The window: panel, views, menus, and where everything is told."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6.QtCore import QSettings, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDragLeaveEvent, QDropEvent, QGuiApplication
from PySide6.QtWidgets import (
    QApplication,
    QLabel,
    QMainWindow,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from medquant_desktop import about, menus, theme
from medquant_desktop.difference_profile import profile
from medquant_desktop.documents import Documents
from medquant_desktop.linked_views import LinkedViews
from medquant_desktop.notice import Notice
from medquant_desktop.opening import dropped_paths, what_to_open
from medquant_desktop.pane import THREE_D
from medquant_desktop.panel_frame import PanelFrame
from medquant_desktop.view_bar import ViewBar
from medquant_desktop.welcome import SeriesChoice, Welcome

TITLE = "MedQuantSlicer"
SIZE = (1280, 800)
"""At least; on a large screen the window begins with this share of it."""
SHARE = 0.8


class Window(QMainWindow):
    """Everything that is seen."""

    def __init__(self, application_logic: Any, settings: QSettings) -> None:
        super().__init__()
        self.setWindowTitle(TITLE)
        self.setAcceptDrops(True)
        self.resize(*usual_size())
        self.application_logic, self.settings = application_logic, settings
        self.documents = documents = Documents(self)
        self.views = LinkedViews(application_logic)
        self.welcome = Welcome(documents.ask_for_file, documents.ask_for_folder, documents.open_sample)
        self.welcome.open_path = documents.open_path
        self.choice = SeriesChoice(documents.answered, self.refresh)
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
        self.frame = PanelFrame(self.views, documents.open_sample)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.addWidget(self.frame)
        splitter.addWidget(right)
        splitter.setChildrenCollapsible(False)
        splitter.setStretchFactor(1, 1)
        self._splitter, self._parted = splitter, False
        splitter.splitterMoved.connect(lambda *_: setattr(self, "_parted", True))
        self._share_out()
        self.setCentralWidget(splitter)
        self._probe = QLabel()
        self.views.told = self._probe.setText
        self.statusBar().addWidget(self._probe, 1)
        self.statusBar().addPermanentWidget(QLabel(about.NOT_CLINICAL))
        self.statusBar().setSizeGripEnabled(False)
        self.actions_by_name = menus.build(self)
        self._profile_of: tuple = ((), "", None)
        self._closed = False
        self._watch_scene()
        self.refresh()

    # -- what is shown

    def set_theme(self, name: str) -> None:
        """Dark or light."""
        self.settings.setValue("theme", name)
        theme.apply(QApplication.instance(), theme.THEMES[name], theme.points_of(self.settings))
        self.frame.dress()

    def set_text(self, points: float) -> None:
        """Text of this size; the panel grows with it. 0: as the screen suggests."""
        self.settings.setValue("textPoints", min(max(points, theme.LEAST), theme.MOST) if points else 0)
        self.set_theme(self.settings.value("theme", theme.DARK.name))
        self._share_out()
        self.views.request_render()

    def _share_out(self) -> None:
        """Between panel and views, unless the user has moved what parts them."""
        if not self._parted:
            usual = self.frame.usual_width()
            self._splitter.setSizes([usual, self.width - usual])

    def show_masks_again(self) -> None:
        """Two views where a session has masks for both, whatever is known of them."""
        from MedQuantSlicerLib import masks
        from MedQuantSlicerLib.host import FP32, QUANTIZED

        if all(masks.segmentation_of(kind, self.frame.volume) for kind in (FP32, QUANTIZED)):
            self.views.show_pair()
        self.views.show_optional(THREE_D, self.views.was_shown(THREE_D))

    def _watch_scene(self) -> None:
        self._due = QTimer(self)
        self._due.setSingleShot(True)
        self._due.setInterval(0)
        self._due.timeout.connect(self.refresh)
        scene = slicer.mrmlScene
        self._tags = [
            scene.AddObserver(event, lambda *_: self._due.start())
            for event in (scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
        ]
        self.frame.changed = self._due.start
        self.frame.shown = self._panel_shown
        self.views.rearranged = self.bar.refresh
        self.bar.difference.clicked.connect(lambda *_: self.frame.presenter.difference())

    def _panel_shown(self, shown: Any) -> None:
        """Follow what the panel says."""
        self.bar.follow(shown)
        self._show_profile()

    def _show_profile(self) -> None:
        """Over the slider: where the masks differ."""
        per_slice = self.frame.presenter.difference_per_slice()
        about = (per_slice, self.views.orientation, self.views.volume)
        if about != self._profile_of:
            self._profile_of = about
            self.views.show_differences(profile(per_slice, self.views.left) if per_slice else ())

    def ask(self, title: str, entries: list[tuple[int, str, str]]) -> None:
        """Ask which of several things to open."""
        self.choice.offer(title, entries)
        self.stack.setCurrentIndex(self._pages["choice"])

    def refresh(self) -> None:
        """Show the scan that is chosen in the panel."""
        if self._closed:
            return
        volume = self.frame.volume
        if volume is not self.views.volume:
            self.views.show_volume(volume)
            self.setWindowTitle(f"{volume.GetName()} - {TITLE}" if volume is not None else TITLE)
            self._show_profile()
        self.stack.setCurrentIndex(self._pages["views" if volume is not None else "welcome"])
        self.bar.refresh()
        if volume is None:
            self.welcome.show_recent(self.documents.recent.paths())

    # -- Qt's events

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped_paths(event.mimeData()):
            event.acceptProposedAction()
            self.welcome.show_drag(True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self.welcome.show_drag(False)

    def dropEvent(self, event: QDropEvent) -> None:
        self.welcome.show_drag(False)
        event.acceptProposedAction()
        self.documents.open_paths(what_to_open(dropped_paths(event.mimeData())))

    def showEvent(self, event: object) -> None:
        # Its imports take a second: they begin once everything is on the screen.
        QTimer.singleShot(300, self.documents.reader.start)

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._closed:
            return
        if not self.documents.may_close(self.close):
            event.ignore()
            return
        self._closed = True
        self.documents.close()
        self.frame.close_panel()
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        self.views.close_views()


def usual_size() -> tuple[int, int]:
    """Width and height that suit the screen."""
    screens = QGuiApplication.screens()
    room = screens[0].availableGeometry if screens else None
    there = (room.width(), room.height()) if room is not None else (0, 0)
    return tuple(max(least, round(SHARE * length)) for least, length in zip(SIZE, there))
