"""How the panel looks: a few rules on top of the application's own style, in the application's own colours."""

from __future__ import annotations

from typing import Any

import qt

FP32_BLUE, QUANTIZED_AMBER = "#4C9BE8", "#F2A33A"

QUIET = 0.68
"""How much of the text's colour a quiet text keeps: enough to be read on every ground of the panel."""

SHEET = """
QPushButton[primary="true"] {
    background: palette(highlight); color: palette(highlighted-text); border: 1px solid palette(highlight);
    border-radius: 5px; font-weight: bold; padding: 4px 12px; min-height: %(button)dpx;
}
QPushButton[primary="true"]:hover { border: 1px solid palette(text); }
QPushButton[bits="true"] {
    border: 1px solid palette(mid); border-radius: 6px; background: palette(base); padding: 0; min-height: %(bits)dpx;
}
QPushButton[bits="true"]:hover { border: 1px solid palette(text); }
QPushButton[bits="true"]:checked { border: 2px solid #F2A33A; background: %(chosen)s; }
QPushButton[bits="true"]:disabled { background: palette(window); }
QPushButton[chosen="true"] {
    border: 2px solid #F2A33A; border-radius: 5px; background: %(chosen)s; padding: 4px 12px; min-height: %(button)dpx;
}
QPushButton[card="true"] {
    border: 1px solid palette(mid); border-radius: 6px; background: palette(base); padding: 0; min-height: %(card)dpx;
}
QPushButton[card="true"]:hover { border: 1px solid palette(text); }
QLabel[quiet="true"] { color: %(quiet)s; }
QLabel[small="true"] { color: %(quiet)s; font-size: %(small)spt; }
QLabel[hint="true"] {
    background: %(hint)s; border-radius: 4px; padding: 6px 10px; font-weight: bold;
}
QLabel[headline="true"] { font-size: %(large)spt; font-weight: bold; }
QLabel[figure="true"] { font-size: %(figure)spt; font-weight: bold; }
QLabel[badge="true"] {
    border: 1px solid %(quiet)s; border-radius: 7px; padding: 0px 6px; color: %(quiet)s; font-size: %(small)spt;
}
QFrame[problem="true"] { border: 1px solid #C8553D; border-radius: 4px; background: %(problem)s; }
QFrame[notice="true"] { border: 1px solid palette(mid); border-radius: 4px; background: palette(base); }
QToolButton[fold="true"] { border: none; background: transparent; padding: 3px 2px; }
QToolButton[fold="true"]:hover { text-decoration: underline; }
QProgressBar { border: none; border-radius: 3px; background: palette(mid); max-height: 6px; min-height: 6px; }
QProgressBar::chunk { border-radius: 3px; background: palette(highlight); }
"""


def apply(root: Any) -> None:
    """Dress the panel; to be called again when the application's colours change."""
    # The application's: a widget with rules of its own keeps the colours that it had when it got them.
    palette = qt.QApplication.palette()
    dark = palette.color(qt.QPalette.Window).lightness() < 128
    text, window = palette.color(qt.QPalette.WindowText), palette.color(qt.QPalette.Window)
    # The stand-ins and old fonts tell the size in points or not at all.
    points = max(8, root.font.pointSizeF())
    line = root.fontMetrics().height()
    colors = {
        "quiet": mixed(text, window, QUIET).name(),
        "hint": mixed(palette.color(qt.QPalette.Highlight), window, 0.25 if dark else 0.15).name(),
        "problem": "#4A2A24" if dark else "#FBE9E5",
        "chosen": "#33291A" if dark else "#FDF3E3",
        "large": points + 1,
        "figure": points + 7,
        "small": points - 1,
        "button": line + 3,
        "bits": round(4.9 * line) + 8,
        "card": 3 * line + 14,
    }
    sheet = SHEET % colors
    if root.styleSheet != sheet:
        root.setStyleSheet(sheet)


def mixed(first: Any, second: Any, part: float) -> Any:
    """A colour between two, `part` of it the first."""
    channels = ((first.red(), second.red()), (first.green(), second.green()), (first.blue(), second.blue()))
    return qt.QColor(*(round(a * part + b * (1 - part)) for a, b in channels))


def mark(widget: Any, name: str, value: bool = True) -> None:
    """Set a property that the rules above ask for, and let them take effect."""
    if bool(widget.property(name)) != value:
        widget.setProperty(name, value)
        widget.style().unpolish(widget)
        widget.style().polish(widget)
