"""The window's menus and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QActionGroup, QKeySequence

from medquant_desktop import about, theme
from medquant_desktop.slice_view import MANY, ORIENTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from PySide6.QtWidgets import QMenu

    from medquant_desktop.window import Window

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def build(window: Window) -> dict[str, QAction]:
    """Make the menus; gives the actions by their names."""
    made: dict[str, QAction] = {}

    def add(menu: QMenu, name: str, text: str, does: Callable[[], object], keys: object = None) -> QAction:
        action = menu.addAction(text)
        action.setObjectName(name)
        action.triggered.connect(lambda *_: does())
        if keys is not None:
            action.setShortcuts([keys] if isinstance(keys, str | QKeySequence.StandardKey) else list(keys))
        made[name] = action
        return action

    views, documents, settings = window.views, window.documents, window.settings
    file = window.menuBar().addMenu("&File")
    add(file, "open", f"Open file{ELLIPSIS}", documents.ask_for_file, QKeySequence.StandardKey.Open)
    add(file, "openFolder", f"Open DICOM folder{ELLIPSIS}", documents.ask_for_folder, "Ctrl+D")
    add(file, "openSample", "Open the sample CT", documents.open_sample)
    window.recent_menu = file.addMenu("Open recent")
    file.addSeparator()
    add(file, "save", f"Save session{ELLIPSIS}", documents.ask_where_to_save, QKeySequence.StandardKey.Save)
    file.addSeparator()
    add(file, "quit", "Quit", window.close, "Ctrl+Q")

    view = window.menuBar().addMenu("&View")
    for number, name in enumerate(ORIENTATIONS, 1):
        add(view, name, name, lambda which=name: views.set_orientation(which), str(number))
    view.addSeparator()
    add(view, "fit", "Fit", views.fit, "R")
    for name, text, slices, keys in (
        ("next", "Next slice", 1, ("Up", "Right")),
        ("previous", "Previous slice", -1, ("Down", "Left")),
        ("forward", "Ten slices forward", MANY, "PgUp"),
        ("back", "Ten slices back", -MANY, "PgDown"),
    ):
        action = add(view, name, text, lambda by=slices: views.step(by), keys)
        # In the panel arrows mean other things: they turn slices only while the views have the keys.
        action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        views.addAction(action)
    view.addSeparator()
    add(view, "larger", "Larger text", lambda: window.set_text(theme.points_of(settings) + 1), ("Ctrl++", "Ctrl+="))
    add(view, "smaller", "Smaller text", lambda: window.set_text(theme.points_of(settings) - 1), "Ctrl+-")
    add(view, "usualText", "Usual text", lambda: window.set_text(0), "Ctrl+0")
    view.addSeparator()
    group = QActionGroup(window)
    for name in theme.THEMES:
        action = add(view, f"theme{name}", f"{name.capitalize()} theme", lambda which=name: window.set_theme(which))
        action.setCheckable(True)
        action.setChecked(window.settings.value("theme", theme.DARK.name) == name)
        group.addAction(action)

    help_menu = window.menuBar().addMenu("&Help")
    add(
        help_menu,
        "shortcuts",
        "Keys and mouse",
        lambda: about.show(window, "Keys and mouse", about.shortcuts_text()),
        "F1",
    )
    add(help_menu, "about", "About MedQuantSlicer", lambda: about.show(window, "About", about.about_text()))
    show_recent(window)
    return made


def show_recent(window: Window) -> None:
    """Fill the menu of what was opened last."""
    menu = window.recent_menu
    menu.clear()
    paths = window.documents.recent.paths()
    for path in paths:
        menu.addAction(str(path)).triggered.connect(lambda *_, which=path: window.documents.open_path(which))
    if paths:
        menu.addSeparator()
        menu.addAction("Clear this list").triggered.connect(
            lambda *_: (window.documents.recent.clear(), show_recent(window))
        )
    menu.setEnabled(bool(paths))
