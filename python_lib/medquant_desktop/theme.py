"""Dark and light: one palette and one style sheet for the window and the panel in it.

The panel says what a widget is by dynamic properties that Slicer ignores: `primary` on the one filled button, and
`role` (title, muted, error, badge, choice, number).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from string import Template

from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication

FP32 = "#4C9BE8"
QUANTIZED = "#F2A33A"
FAMILIES = ("Inter", "Segoe UI", "SF Pro Text", "Helvetica Neue", "Noto Sans", "Liberation Sans", "DejaVu Sans")
POINTS = 10


@dataclass(frozen=True)
class Theme:
    """The colours of one theme, as #RRGGBB."""

    name: str
    window: str
    panel: str
    raised: str
    field: str
    border: str
    text: str
    muted: str
    faint: str
    accent: str
    accent_hover: str
    on_accent: str
    error: str
    error_ground: str


DARK = Theme(
    name="dark",
    window="#14171B",
    panel="#1A1E23",
    raised="#262C34",
    field="#20252C",
    border="#343C47",
    text="#E4E8ED",
    muted="#98A3B0",
    faint="#67717E",
    accent="#2B8A80",
    accent_hover="#34A195",
    on_accent="#FFFFFF",
    error="#FFB4A8",
    error_ground="#3A2323",
)
LIGHT = Theme(
    name="light",
    window="#E9ECEF",
    panel="#F6F7F9",
    raised="#FFFFFF",
    field="#FFFFFF",
    border="#C9D0D8",
    text="#1B2026",
    muted="#5A6572",
    faint="#8A95A1",
    accent="#1F776E",
    accent_hover="#19655E",
    on_accent="#FFFFFF",
    error="#9B2C1D",
    error_ground="#FBE9E6",
)
THEMES = {theme.name: theme for theme in (DARK, LIGHT)}


def apply(application: QApplication, theme: Theme) -> None:
    """Give the whole application the theme's palette, style sheet and font."""
    application.setStyle("Fusion")
    application.setFont(_font())
    application.setPalette(palette(theme))
    application.setStyleSheet(style_sheet(theme))


def palette(theme: Theme) -> QPalette:
    """The colours for whatever paints itself."""
    made = QPalette()
    role = QPalette.ColorRole
    for which, color in (
        (role.Window, theme.panel),
        (role.Base, theme.field),
        (role.AlternateBase, theme.raised),
        (role.Button, theme.raised),
        (role.ToolTipBase, theme.raised),
        (role.WindowText, theme.text),
        (role.Text, theme.text),
        (role.ButtonText, theme.text),
        (role.ToolTipText, theme.text),
        (role.PlaceholderText, theme.faint),
        (role.Mid, theme.border),
        (role.Dark, theme.window),
        (role.Light, theme.raised),
        (role.Midlight, theme.border),
        (role.Shadow, theme.window),
        (role.Highlight, theme.accent),
        (role.HighlightedText, theme.on_accent),
        (role.Link, theme.accent_hover),
    ):
        made.setColor(which, QColor(color))
    for which in (role.WindowText, role.Text, role.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, which, QColor(theme.faint))
    return made


def style_sheet(theme: Theme) -> str:
    """What a palette cannot say: edges, room, and the roles of the panel's widgets."""
    return Template(_SHEET).substitute(asdict(theme))


def _font() -> QFont:
    there = set(QFontDatabase.families())
    font = QFont([family for family in FAMILIES if family in there] or [QApplication.font().family()])
    font.setPointSize(POINTS)
    return font


_SHEET = """
QMainWindow, QDialog { background: $window; }
QToolTip { background: $raised; color: $text; border: 1px solid $border; padding: 4px 6px; }
QMenuBar { background: $window; color: $text; padding: 2px 6px; }
QMenuBar::item { padding: 4px 9px; border-radius: 4px; background: transparent; }
QMenuBar::item:selected { background: $raised; }
QMenu { background: $raised; color: $text; border: 1px solid $border; padding: 5px; }
QMenu::item { padding: 5px 26px 5px 22px; border-radius: 4px; }
QMenu::item:selected { background: $accent; color: $on_accent; }
QMenu::item:disabled { color: $faint; background: transparent; }
QMenu::separator { height: 1px; background: $border; margin: 5px 8px; }
QStatusBar { background: $window; color: $muted; }
QStatusBar::item { border: none; }
QStatusBar QLabel { color: $muted; padding: 0 6px; }
QSplitter::handle { background: $window; }

QPushButton { background: $raised; color: $text; border: 1px solid $border; border-radius: 5px; padding: 5px 12px; min-height: 18px; }
QPushButton:hover { border-color: $muted; }
QPushButton:pressed { background: $field; }
QPushButton:disabled { color: $faint; background: transparent; border-color: $border; }
QPushButton:focus, QToolButton:focus { border-color: $accent_hover; }
QPushButton[primary="true"] { background: $accent; color: $on_accent; border-color: $accent; font-weight: 600; }
QPushButton[primary="true"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[role="choice"] { padding: 7px 4px; }
QPushButton[role="choice"]:checked { border: 2px solid $accent_hover; background: $field; font-weight: 600; }
QToolButton { background: transparent; color: $text; border: 1px solid transparent; border-radius: 5px; padding: 4px 8px; }
QToolButton:hover { background: $raised; }
QToolButton:checked { background: $raised; border-color: $border; }
QToolButton:disabled { color: $faint; }
QToolButton::menu-indicator { image: none; }

QLineEdit, QComboBox, QAbstractSpinBox, QTextEdit, QPlainTextEdit { background: $field; color: $text; border: 1px solid $border;
  border-radius: 5px; padding: 3px 7px; min-height: 20px; selection-background-color: $accent; selection-color: $on_accent; }
QLineEdit:focus, QComboBox:focus, QAbstractSpinBox:focus { border-color: $accent_hover; }
QLineEdit:disabled, QComboBox:disabled, QAbstractSpinBox:disabled { color: $faint; }
QComboBox::drop-down { border: none; width: 20px; }
QComboBox QAbstractItemView { background: $raised; color: $text; border: 1px solid $border; selection-background-color: $accent; }
QProgressBar { background: $field; border: none; border-radius: 3px; min-height: 6px; max-height: 6px; text-align: center; color: transparent; }
QProgressBar::chunk { background: $accent_hover; border-radius: 3px; }
QSlider::groove:horizontal { height: 4px; background: $border; border-radius: 2px; }
QSlider::sub-page:horizontal { background: $accent; border-radius: 2px; }
QSlider::handle:horizontal { width: 14px; height: 14px; margin: -5px 0; border-radius: 7px; background: $text; }
QSlider::handle:horizontal:disabled { background: $faint; }
QTableView, QTreeView, QListView { background: $field; color: $text; border: 1px solid $border; border-radius: 5px; gridline-color: $border;
  alternate-background-color: $panel; selection-background-color: $accent; selection-color: $on_accent; }
QHeaderView::section { background: $panel; color: $muted; border: none; border-bottom: 1px solid $border; padding: 4px 6px; }
QTableCornerButton::section { background: $panel; border: none; }
QScrollArea { border: none; background: transparent; }
QScrollBar:vertical { background: transparent; width: 10px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: 10px; margin: 0; }
QScrollBar::handle { background: $border; border-radius: 4px; min-height: 28px; min-width: 28px; margin: 2px; }
QScrollBar::handle:hover { background: $faint; }
QScrollBar::add-line, QScrollBar::sub-line, QScrollBar::add-page, QScrollBar::sub-page { background: none; height: 0; width: 0; }
QGroupBox { border: 1px solid $border; border-radius: 6px; margin-top: 9px; padding-top: 6px; }
QGroupBox::title { subcontrol-origin: margin; left: 9px; padding: 0 4px; color: $muted; }

*[role="title"] { font-weight: 600; }
*[role="muted"] { color: $muted; font-size: ${small}pt; }
*[role="error"] { color: $error; background: $error_ground; border: 1px solid $error; border-radius: 5px; padding: 7px 9px; }
*[role="badge"] { color: $muted; border: 1px solid $border; border-radius: 8px; padding: 1px 7px; font-size: ${small}pt; }
""".replace("${small}", str(POINTS - 1))
