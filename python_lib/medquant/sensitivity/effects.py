"""The map of effects: layers by bits, by what is rounded, by how it is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from scipy.stats import spearmanr

from medquant.errors import UserError
from medquant.sensitivity.change import Change
from medquant.sensitivity.trials import Rounding

View = Literal["one-at-a-time", "incremental", "proxy"]
VIEWS: tuple[View, ...] = ("one-at-a-time", "incremental", "proxy")
"""Only this layer rounded; all but this layer; the error of the layer's own output, the rest not looked at."""


def views_of(names: Sequence[str]) -> tuple[View, ...]:
    """Each once, in order. Raises `UserError` for an unknown one, and for none."""
    if odd := [name for name in names if name not in VIEWS]:
        raise UserError(f"Unknown view {odd[0]!r}. Choose among {', '.join(VIEWS)}.")
    if not names:
        raise UserError(f"Nothing is asked for. Choose among {', '.join(VIEWS)}.")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class LayerEffect:
    """One layer, or one type of layers, rounded in one way and looked at in one way."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    share: float
    """Its part of all layers' weights, 0 to 1."""
    rounding: Rounding
    view: View
    effect: float
    """How much the relative error of the network's output ("proxy": of the layer's own) grows by rounding it."""
    change: Change | None = None
    """The network's output with only this layer rounded, or with all but this one; None in the view "proxy"."""
    dsc_loss: float | None = None
    """How much the Dice of the masks against FP32's falls by rounding it; None in the view "proxy"."""
    stored_bits: int = 0
    """Of everything that stands for the weight."""
    reference_loss: float | None = None
    """How much the Dice of the masks against the reference falls by rounding it; None without a reference."""

    @property
    def bits(self) -> int:
        """Of what is rounded most coarsely."""
        return min(bits for bits in (self.rounding.weights, self.rounding.activations) if bits is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        told = {**asdict(self), "shape": list(self.shape), "rounding": self.rounding.label, "bits": self.bits}
        return told | (told.pop("change") or {})


@dataclass(frozen=True)
class SensitivityMap:
    """The effects of all layers."""

    layers: tuple[str, ...]
    """In the order of the network."""
    roundings: tuple[Rounding, ...]
    """Fewest bits first."""
    cells: tuple[LayerEffect, ...]
    types: tuple[LayerEffect, ...] = ()
    """All layers of one type given back together, while the others are rounded; `layer` is the type's name."""
    whole: tuple[tuple[Rounding, Change], ...] = ()
    """Everything rounded, where the view "incremental" was asked for."""
    fp32_vs_reference: float | None = None
    """Mean Dice of the FP32 network's masks against the reference, where there is one."""

    @property
    def bits(self) -> tuple[int, ...]:
        """The numbers of bits, fewest first."""
        return tuple(sorted({cell.bits for cell in self.cells}))

    def column(self, rounding: Rounding, view: View = "one-at-a-time") -> dict[str, LayerEffect]:
        """The cells of one way of rounding in one view, by layer."""
        return {cell.layer: cell for cell in self.cells if (cell.rounding, cell.view) == (rounding, view)}

    @property
    def ranking_view(self) -> View:
        """The view that says which layers are worst: one of the masks, where there is one, else the proxy."""
        return next(view for view in VIEWS if any(cell.view == view for cell in self.cells))

    def worst(self, count: int = 5) -> tuple[str, ...]:
        """The layers with the largest effect at the fewest bits in `ranking_view`, the largest first."""
        return _first((cell.effect, cell.layer) for cell in self._at_fewest_bits())[:count]

    def most_harmful(self, count: int = 5) -> tuple[str, ...]:
        """The layers that cost the masks most Dice at the fewest bits in `ranking_view`; empty where none costs any."""
        losses = ((cell.dsc_loss, cell.layer) for cell in self._at_fewest_bits() if cell.dsc_loss is not None)
        return _first((loss, layer) for loss, layer in losses if loss > 0)[:count]

    def _at_fewest_bits(self) -> list[LayerEffect]:
        least, view = min(self.bits), self.ranking_view
        return [cell for cell in self.cells if cell.bits == least and cell.view == view]

    def rank_agreement(self) -> list[dict[str, Any]]:
        """Spearman's rank correlation of the layers between each two views, for each way of rounding.

        Rows of `rounding, views, spearman`; None where all layers of a view have the same effect.
        """
        views = list(dict.fromkeys(cell.view for cell in self.cells))
        rows = []
        for rounding in self.roundings:
            for one, other in combinations(views, 2):
                a, b = self.column(rounding, one), self.column(rounding, other)
                both = [name for name in self.layers if name in a and name in b]
                found = _spearman([a[name].effect for name in both], [b[name].effect for name in both])
                rows.append({"rounding": rounding.label, "views": [one, other], "spearman": found})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "layers": list(self.layers),
            "bits": list(self.bits),
            "cells": [cell.to_dict() for cell in self.cells],
            "types": [cell.to_dict() for cell in self.types],
            "fp32_vs_reference": self.fp32_vs_reference,
            "whole": [{"rounding": rounding.label, **asdict(change)} for rounding, change in self.whole],
            "rank_agreement": self.rank_agreement(),
            "worst": list(self.worst()),
        }


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(spearmanr(a, b).statistic)


def _first(found: Iterable[tuple[float, str]]) -> tuple[str, ...]:
    """Names by their figures, each once, the largest first."""
    return tuple(dict.fromkeys(name for _, name in sorted(found, key=lambda pair: -pair[0])))
