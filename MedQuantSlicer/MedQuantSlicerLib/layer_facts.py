"""What was measured of the layers: a map for each model, scan, view and rounding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from MedQuantSlicerLib.layer_state import HeatCell, HeatLayer, Histogram, TypeCell


class MapKind(NamedTuple):
    """What a map is about; only maps of one rounding (the same `what` and `granularity`) can be compared."""

    view: str
    what: str
    granularity: str


@dataclass
class Heat:
    """One map."""

    cells: dict[tuple[str, int], HeatCell] = field(default_factory=dict)
    """By layer and bits."""
    complete: bool = False
    types: tuple[TypeCell, ...] = ()
    """All layers of one type spared, for each type and bits."""
    reference: str = ""
    """What the masks were held against; empty: nothing but FP32."""
    fp32_vs_reference: float | None = None
    """FP32's Dice there."""


@dataclass(frozen=True)
class Agreement:
    """How far two views put the layers in the same order."""

    what: str
    granularity: str
    views: tuple[str, str]
    bits: int
    spearman: float

    def is_about(self, kind: MapKind) -> bool:
        """Whether a map is one of the two."""
        return kind.view in self.views and (self.what, self.granularity) == kind[1:]


@dataclass
class Sensitivity:
    """All that was measured of the layers of one model on one scan."""

    model: str
    scan: tuple
    """As `Facts.scan`."""
    layers: dict[str, HeatLayer] = field(default_factory=dict)
    heats: dict[MapKind, Heat] = field(default_factory=dict)
    agreements: list[Agreement] = field(default_factory=list)
    histograms: dict[str, tuple[Histogram, Histogram]] = field(default_factory=dict)
    """Of weights and inputs, by layer."""
