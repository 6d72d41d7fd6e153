"""One colour map for how much a layer matters: white for nothing, then evenly darker, also to colour-blind eyes."""

from __future__ import annotations

import math

ANCHORS = ("#FFFFFF", "#FDE1B3", "#F7AF73", "#E27758", "#B04861", "#742A68", "#3D1654")
"""Even steps of lightness."""
FLOOR = 0.05
"""Effects are compared with the largest, but not with less than this: noise is not a warning."""


def depth(effect: float, largest: float) -> float:
    """How dark an effect is, 0 to 1. The root spreads the many small ones; what is no number is as bad as can be."""
    if math.isnan(effect):
        return 0.0
    return min(1.0, max(0.0, effect) / max(largest, FLOOR)) ** 0.5 if math.isfinite(effect) else 1.0


def color(effect: float, largest: float) -> str:
    """The colour of an effect, "#rrggbb"."""
    position = depth(effect, largest) * (len(ANCHORS) - 1)
    index = min(int(position), len(ANCHORS) - 2)
    pair = [tuple(int(anchor[at : at + 2], 16) for at in (1, 3, 5)) for anchor in ANCHORS[index : index + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (position - index)):02x}" for a, b in zip(*pair, strict=True))


def is_dark(effect: float, largest: float) -> bool:
    """Whether white is to be written on it."""
    return depth(effect, largest) > 0.55
