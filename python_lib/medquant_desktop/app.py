"""Starts the window: `medquant app`, `python3 run.py app`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "MedQuantSlicer"


def main(arguments: Sequence[str] = ()) -> int:
    """Show the window, open what is named, and stay until it is closed; returns the exit code."""
    prepare_graphics()
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from medquant_desktop.opening import what_to_open

    application = QApplication.instance() or QApplication(sys.argv[:1])
    window = make_window()
    window.show()
    paths = [Path(argument).expanduser().resolve() for argument in arguments]
    QTimer.singleShot(0, lambda: window.documents.open_paths(what_to_open(paths)))
    signal.signal(signal.SIGINT, lambda *_: (setattr(window.documents, "may_lose", lambda: True), window.close()))
    # Python notices Ctrl-C only when it runs.
    awake = QTimer()
    awake.timeout.connect(lambda: None)
    awake.start(300)
    return application.exec_()


def prepare_graphics() -> None:
    """Before anything of VTK or Qt is loaded: say how to draw where there is no display to ask."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        if not os.environ.get("WAYLAND_DISPLAY"):
            os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def make_window():
    """The window in the user's theme, not shown yet. There must be a `QApplication`."""
    from PySide6.QtCore import QSettings
    from PySide6.QtWidgets import QApplication

    from medquant_desktop import mrml_application

    application = QApplication.instance()
    application.setOrganizationName(NAME)
    application.setApplicationName(NAME)
    application.setApplicationDisplayName(NAME)
    logic = mrml_application.start()
    from medquant_desktop import theme
    from medquant_desktop.window import Window

    settings = QSettings()
    theme.apply(application, theme.THEMES.get(settings.value("theme"), theme.DARK), theme.points_of(settings))
    return Window(logic, settings)
