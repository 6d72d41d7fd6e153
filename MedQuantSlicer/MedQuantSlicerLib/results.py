"""What the engine has made, and from what: quantized models and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quantized:
    """A quantized model that was made here, or a file of one."""

    handle: str
    bits: int
    text: str
    """Its size: "2.5 MB, 4.2 bits/weight"."""
    pieces: int = 0
    """Of a scan, that it was calibrated on."""
    scan: str = ""
    """That scan's `digest`; "" where it is not known."""
    found: str = ""
    """What a search for the smallest safe model has reached with it."""
    precise: tuple[str, ...] = ()
    """Its layers with the most bits, where a search gave others fewer."""
    uneven: bool = False
    """Whether what a search did not look at, a structure's Dice or a volume, is clearly worse than what it kept."""


@dataclass(frozen=True)
class Computed:
    """Masks, and what they were computed from."""

    told: Mapping[str, Any]
    """The engine's `mask`, to be handed back to it."""
    source: tuple
    """Scan, model, boxes and how: equal ones give the same masks."""
    title: str
    """"4-bit  2.5 MB  1.02 s"."""
    state: str = ""
    """In what state they were put into the scene: another one means that a hand has edited them."""
