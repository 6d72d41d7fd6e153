"""One colour map for "how much": white for nothing, evenly darker to the eye, the same for colour-blind people."""

from __future__ import annotations

from math import isfinite

# Equal steps of CIE lightness from 100 to 20, through yellow and red to a dark violet.
_ANCHORS = (
    (255, 255, 255),
    (253, 225, 179),
    (247, 175, 115),
    (226, 119, 88),
    (176, 72, 97),
    (116, 42, 104),
    (61, 22, 84),
)
FLOOR = 0.05
"""Effects are compared with the largest, but not with less than this: noise is not a warning."""


def color_of(effect: float, largest: float) -> tuple[int, int, int]:
    """Red, green, blue of an effect. The root spreads the many small ones."""
    # An output that is no number at all is as bad as can be.
    part = min(1.0, max(0.0, effect) / max(largest, FLOOR)) ** 0.5 if isfinite(effect) else 1.0
    position = part * (len(_ANCHORS) - 1)
    index = min(int(position), len(_ANCHORS) - 2)
    rest = position - index
    return tuple(round(a + (b - a) * rest) for a, b in zip(_ANCHORS[index], _ANCHORS[index + 1]))


def is_light(color: tuple[int, int, int]) -> bool:
    """Whether black is to be written on it."""
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140


def percent(effect: float) -> str:
    """An effect in few characters: "0.03", "1.2", "34"; per cent. Nothing, at these digits, is "0"."""
    if not isfinite(effect):
        return "\N{INFINITY}"
    value = 100 * effect
    if abs(value) < 0.005:
        return "0"
    if abs(value) >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 0.095 else f"{value:.2f}"


def legend(largest: float, words: str) -> str:
    """What it is about, and the scale: two lines of rich text."""
    top = max(largest, FLOOR)
    steps = "".join(
        "<span style='background-color:#{:02x}{:02x}{:02x}'>&nbsp;&nbsp;&nbsp;</span>".format(
            *color_of(top * (n / 11) ** 2, top)
        )
        for n in range(12)
    )
    return f"{words}<br>0 % {steps} {percent(top)} %"
