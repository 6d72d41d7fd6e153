"""What the panel asks of the window: everything that is not the scene alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from MedQuantSlicerLib.host import DIFFERENCE, Masks, Missing
from MedQuantSlicerLib.scene_host import SceneHost
from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QMessageBox

from medquant_desktop import linked_views
from medquant_desktop.linked_views import LinkedViews


class WindowHost(SceneHost):
    """The scene and the window's views. See `MedQuantSlicerLib.host.Host`."""

    def __init__(self, parameters: Any, views: LinkedViews) -> None:
        super().__init__(parameters)
        self._views = views

    def show_masks(self, kind: str, result: Masks, partial: bool) -> None:
        """See `Host`."""
        super().show_masks(kind, result, partial)
        if kind != DIFFERENCE and not partial:
            self._views.show_surface()

    def show_pair(self) -> None:
        """See `Host`."""
        self._views.show_pair()

    def show_results(self, left_title: str, right_title: str, difference: bool) -> None:
        """See `Host`. A scan without masks is seen in one large view; the difference has a view of its own."""
        self._views.set_titles(left_title, right_title)
        if left_title or right_title or self.has_masks():
            self._views.show_pair()
        else:
            self._views.show_single()
        if difference != self._views.is_shown(linked_views.DIFFERENCE):
            self._views.show_optional(linked_views.DIFFERENCE, difference)

    def restore_layout(self) -> None:
        """See `Host`."""
        self._views.show_single()

    def flip(self) -> None:
        """The views change places, with their titles: the same flicker, and nothing has to be drawn anew."""
        self._views.flip()

    def confirm(self, text: str) -> bool:
        """See `Host`."""
        answers = QMessageBox.StandardButton
        return QMessageBox.question(self._views, "MedQuantSlicer", text, answers.Yes | answers.No) == answers.Yes

    def open_folder(self, path: str) -> None:
        """See `Host`."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(Path(path).expanduser())))

    def missing(self) -> Missing | None:
        """Nothing: the window runs in the engine's own environment."""
        return None

    def install(self, on_progress: Callable[[str], None], on_done: Callable[[], None], on_error: Callable) -> None:
        """See `Host`."""
        on_done()

    def cancel_install(self) -> None:
        """See `Host`."""

    def restarted(self) -> None:
        """See `Host`."""
