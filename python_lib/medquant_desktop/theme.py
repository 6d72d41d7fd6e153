"""Dark and light: one palette and one style sheet for the window and the panel in it.

Widgets say what they are by dynamic properties: `primary` is the one filled button, `role` is title, muted or error.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

from PySide6.QtCore import QSettings
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

FP32 = "#4C9BE8"
QUANTIZED = "#F2A33A"
AGREED = "#B4BBC3"
FAMILIES = ("Inter", "Segoe UI", "SF Pro Text", "Helvetica Neue", "Noto Sans", "Liberation Sans", "DejaVu Sans")
POINTS, LEAST, MOST = 10.0, 8.0, 18.0
"""Size of the text: usual, and the smallest and largest that can be chosen."""
USUAL_SCREEN, ROOM = 1100, 170
"""Screens higher than this get a point more for each so many pixels."""
SHEET = Path(__file__).with_name("resources") / "theme.qss"


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
    bright: str
    """What has to be seen on the ground: the focus, a bar that fills."""
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
    accent="#277F75",
    accent_hover="#22726A",
    bright="#3FB0A3",
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
    bright="#1F776E",
    on_accent="#FFFFFF",
    error="#9B2C1D",
    error_ground="#FBE9E6",
)
THEMES = {theme.name: theme for theme in (DARK, LIGHT)}


def apply(application: QApplication, theme: Theme, points: float = POINTS) -> None:
    """Give the whole application the theme's palette, style sheet and font."""
    application.setStyle("Fusion")
    application.setFont(_font(points))
    application.setPalette(palette(theme))
    application.setStyleSheet(style_sheet(theme, points))


def points_of(settings: QSettings) -> float:
    """The size of text that the user has chosen, or else the one that suits the screen."""
    chosen = float(settings.value("textPoints", 0) or 0)
    if chosen:
        return chosen
    screens = QGuiApplication.screens()
    return points_for(screens[0].availableGeometry.height() if screens else 0)


def points_for(height: int) -> float:
    """The size of text for a screen of so many (logical) pixels."""
    return min(15.0, POINTS + max(0.0, round((height - USUAL_SCREEN) / ROOM)))


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
        (role.Link, theme.bright),
    ):
        made.setColor(which, QColor(color))
    for which in (role.WindowText, role.Text, role.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, which, QColor(theme.faint))
    return made


def style_sheet(theme: Theme, points: float = POINTS) -> str:
    """What a palette cannot say: edges, room, and the roles of the panel's widgets."""
    text = SHEET.read_text(encoding="utf-8")
    sizes = {"small": points - 1, "large": points + 2, "display": points + 6}
    return Template(text).substitute(asdict(theme), **sizes, resources=SHEET.parent.as_posix())


def _font(points: float) -> QFont:
    there = set(QFontDatabase.families())
    font = QFont([family for family in FAMILIES if family in there] or [QApplication.font().family()])
    font.setPointSizeF(points)
    # Digits of one width stand below each other; some of these families have them on request only.
    if hasattr(font, "setFeature"):
        font.setFeature(QFont.Tag("tnum"), 1)
    return font


def channels(color: str) -> tuple[int, int, int]:
    """Red, green and blue of #RRGGBB."""
    return tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))
