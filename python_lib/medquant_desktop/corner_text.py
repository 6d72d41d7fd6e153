"""What stands in the corners of a slice view. No name, number or date of a patient is ever among it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen

LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))
"""Of the RAS axes: towards + and towards -."""
OBLIQUE = 0.3
"""A direction that lies this much along a second axis gets its letter too."""
MARGIN = 10.0


@dataclass(frozen=True)
class Corners:
    """The facts that a view shows about itself."""

    orientation: str = ""
    """"Axial"."""
    number: int = 0
    count: int = 0
    """Which slice it is, from 1, of how many; 0: the plane does not follow the scan's slices."""
    position_mm: float = 0.0
    axis: int = 2
    """The RAS axis that the plane is most nearly perpendicular to."""
    level: float | None = None
    width: float | None = None
    edges: tuple[str, str, str, str] = ("", "", "", "")
    """Letters at the left, top, right and bottom edge."""
    mm_per_pixel: float = 0.0


def edge_letters(slice_to_ras: Sequence[Sequence[float]]) -> tuple[str, str, str, str]:
    """Which side of the patient lies at the left, top, right and bottom of a plane (columns x, y of a 4x4 matrix)."""
    right = [row[0] for row in slice_to_ras[:3]]
    top = [row[1] for row in slice_to_ras[:3]]
    return (
        direction_letters([-value for value in right]),
        direction_letters(top),
        direction_letters(right),
        direction_letters([-value for value in top]),
    )


def direction_letters(direction: Sequence[float]) -> str:
    """A direction in RAS as one letter or, where it is oblique, up to three: "R", "AR"."""
    length = sum(value * value for value in direction) ** 0.5 or 1.0
    parts = sorted(((abs(value) / length, axis, value > 0) for axis, value in enumerate(direction)), reverse=True)
    return "".join(LETTERS[axis][0 if positive else 1] for size, axis, positive in parts if size >= OBLIQUE)


def slice_line(corners: Corners) -> str:
    """ "Axial  12 / 20"."""
    place = f"{corners.number} / {corners.count}" if corners.count else ""
    return "  ".join(part for part in (corners.orientation, place) if part)


def position_line(corners: Corners) -> str:
    """ "S 34.5 mm": where the plane lies, by the side of the patient's origin."""
    plus, minus = LETTERS[corners.axis]
    return f"{plus if corners.position_mm >= 0 else minus} {abs(corners.position_mm):.1f} mm"


def window_line(corners: Corners) -> str:
    """ "W 400  L 40"; scans with small values get decimals."""
    if corners.width is None or corners.level is None:
        return ""
    digits = 0 if corners.width >= 20 else 2
    return f"W {corners.width:.{digits}f}  L {corners.level:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def bar_length(mm_per_pixel: float, most_pixels: float) -> float:
    """The longest of 1, 2, 5, 10, 20, 50 ... mm that is at most so many pixels long; 0 where none is."""
    if mm_per_pixel <= 0 or most_pixels <= 0:
        return 0.0
    steps = [step * 10.0**power for power in range(-2, 4) for step in (1, 2, 5)]
    return max((length for length in steps if length <= mm_per_pixel * most_pixels), default=0.0)


def paint(painter: QPainter, area: QRectF, corners: Corners, font: QFont) -> None:
    """Draw all of it into a view of that area, in Qt's own coordinates."""
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    inner = area.adjusted(MARGIN, MARGIN - 2, -MARGIN, -MARGIN + 2)
    align = Qt.AlignmentFlag
    _text(painter, inner, align.AlignLeft | align.AlignTop, slice_line(corners))
    _text(painter, inner, align.AlignRight | align.AlignTop, position_line(corners))
    _text(painter, inner, align.AlignLeft | align.AlignBottom, window_line(corners))
    left, top, right, bottom = corners.edges
    _text(painter, inner, align.AlignLeft | align.AlignVCenter, left, bold=True)
    _text(painter, inner, align.AlignHCenter | align.AlignTop, top, bold=True)
    _text(painter, inner, align.AlignRight | align.AlignVCenter, right, bold=True)
    _text(painter, inner, align.AlignHCenter | align.AlignBottom, bottom, bold=True)
    _scale_bar(painter, inner, corners.mm_per_pixel, metrics)


def _text(painter: QPainter, area: QRectF, where: Qt.AlignmentFlag, text: str, bold: bool = False) -> None:
    """Light text with a dark edge: readable on air and on bone."""
    if not text:
        return
    font = QFont(painter.font())
    font.setBold(bold)
    painter.setFont(font)
    painter.setPen(QColor(0, 0, 0, 190))
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        painter.drawText(area.translated(dx, dy), where, text)
    painter.setPen(QColor("#D5DBE2"))
    painter.drawText(area, where, text)
    font.setBold(False)
    painter.setFont(font)


def _scale_bar(painter: QPainter, inner: QRectF, mm_per_pixel: float, metrics: QFontMetricsF) -> None:
    length_mm = bar_length(mm_per_pixel, inner.width() / 5)
    if not length_mm:
        return
    label = f"{length_mm / 10:g} cm" if length_mm >= 10 else f"{length_mm:g} mm"
    end = QPointF(inner.right(), inner.bottom() - 2)
    start = QPointF(end.x() - length_mm / mm_per_pixel, end.y())
    for color, width in ((QColor(0, 0, 0, 190), 4.0), (QColor("#D5DBE2"), 2.0)):
        painter.setPen(QPen(color, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
        painter.drawLine(start, end)
    above = QRectF(inner.left(), inner.top(), inner.width(), inner.height() - 6)
    _text(
        painter,
        above.adjusted(0, 0, 0, -metrics.descent() / 2),
        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignBottom,
        label,
    )
