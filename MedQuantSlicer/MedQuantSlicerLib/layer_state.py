"""What the section "Layers" displays, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class HeatCell:
    """What one layer at one bit-width does."""

    layer: str
    bits: int
    effect: float
    """Relative change of the output by rounding the layer (of its own output in a quick estimate); 0: none."""
    dsc_loss: float | None = None
    """How much Dice against FP32 the masks lose by that; None where masks were not looked at."""
    dsc: float | None = None
    """That Dice."""
    reference_loss: float | None = None
    """How much Dice against the reference they lose; None where there was none."""

    @property
    def harm(self) -> float:
        """What the heatmap is about: of masks where they were looked at."""
        return self.effect if self.dsc_loss is None else self.dsc_loss


@dataclass(frozen=True)
class TypeCell(HeatCell):
    """What all layers of one type at one bit-width do; `layer` is the type's name: "Conv2d 3x3", "Linear MLP"."""

    share: float = 0.0
    """Their part of all weights, 0 to 1."""


@dataclass(frozen=True)
class HeatLayer:
    """One row of the heatmap."""

    name: str
    block: str
    """Rows of one block follow each other and can be folded: "vision_encoder.layers.3"."""
    kind: str
    """"Linear", "Conv2d" ..."""
    shape: tuple[int, ...]
    share: float
    """Its part of all weights, 0 to 1."""
    kept: int | None = None
    """Bits that the recipe gives it by the user's wish, 32 for floating point; None: no wish."""
    precise: bool = False
    """Whether the smallest safe model, where that is chosen, gives it more bits than others."""


@dataclass(frozen=True)
class Heatmap:
    """The sensitivity of the layers, as far as it is measured."""

    layers: tuple[HeatLayer, ...]
    """In the order of the network."""
    bits: tuple[int, ...]
    cells: tuple[HeatCell, ...]
    worst: tuple[str, ...] = ()
    """Names of the five most sensitive layers at the fewest bits."""
    complete: bool = False
    view: str = "proxy"
    what: str = "weights"
    agreement: tuple[str, ...] = ()
    """How far other views that were measured put the layers in the same order, a line for each."""
    against: str = ""
    """What FP32 has against the reference that the masks were held against; empty: none."""
    types: Heatmap | None = None
    """The same of all layers of each type, spared together; None where that was not measured."""

    @property
    def largest(self) -> float:
        """The largest effect that was measured, of a layer or a type: both have the same colours."""
        own = max((cell.harm for cell in self.cells if isfinite(cell.harm)), default=0.0)
        return max(own, self.types.largest) if self.types is not None else own


@dataclass(frozen=True)
class Histogram:
    """How numbers are spread."""

    minimum: float
    maximum: float
    counts: tuple[int, ...]
    """In even bins from `minimum` to `maximum`."""


@dataclass(frozen=True)
class LayerLine:
    """The layer that was clicked."""

    name: str
    text: str
    """Name, shape, share of the size, effects."""
    kept: int | None = None
    weights: Histogram | None = None
    inputs: Histogram | None = None
    """Of what it gets; None: not known."""
