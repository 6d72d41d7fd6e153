"""The map of sensitivities as a table of coloured cells, for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medquant.evaluation import effect_colors, wording
from medquant.sensitivity.effects import LayerEffect, SensitivityMap
from medquant.sensitivity.trials import Rounding

_WORST = 5
_FEW = 100
"""So many layers are shown at once; more of them are folded."""
_VIEWS = {
    "one-at-a-time": "Each layer is rounded alone ({what}); the numbers are the Dice against FP32 that this costs.",
    "incremental": "All layers but one are rounded ({what}); the numbers are the Dice that sparing it gains.",
    "proxy": "A quick estimate: each layer is rounded alone ({what}); the numbers are the change of its own output. "
    "Masks were not looked at.",
}
_NAMES = {"one-at-a-time": "one at a time", "incremental": "one spared at a time", "proxy": "the quick estimate"}
_AGAINST = {
    "one-at-a-time": "less than that with the layer rounded",
    "incremental": "more than all rounded by sparing it",
}


def sensitivity_table(found: SensitivityMap) -> dict[str, Any]:
    """The first view of a map as rows of coloured cells, in the words of the page, most bits first: what becomes of the
    masks where they were looked at, else of the layers' own output. Layers that were not measured are left out. Where
    they are known: types of layers, what a reference says, and how far the views rank the layers alike."""
    view, roundings = found.cells[0].view, found.roundings[::-1]
    columns = [found.column(rounding, view) for rounding in roundings]
    cells = [cell for column in columns for cell in column.values()]
    types = found.types if view == "incremental" else ()
    known = [value for cell in (*cells, *types) if math.isfinite(value := _loss(cell))]
    largest = max([effect_colors.FLOOR, *known])
    fewest = sorted(columns[-1].values(), key=lambda cell: (-_loss(cell), -cell.effect))[:_WORST]
    rows = []
    for name in found.layers:
        measured = [column.get(name) for column in columns]
        one = next((cell for cell in measured if cell is not None), None)
        if one is None:
            continue
        rows.append(
            {
                "name": name,
                "kind": one.kind,
                "shape": f" {wording.TIMES} ".join(str(n) for n in one.shape),
                "share": one.share,
                "worst": one.layer in {cell.layer for cell in fewest},
                "cells": [None if cell is None else _colored(_loss(cell), largest) for cell in measured],
                "against": [wording.difference(cell and cell.reference_loss) for cell in measured],
            }
        )
    what = {(True, False): "weights", (False, True): "activations", (True, True): "weights and activations"}
    first = roundings[0]
    rounded = what[first.weights is not None, first.activations is not None]
    return {
        "about": _VIEWS[view].format(what=rounded),
        "bits": [min(n for n in (r.weights, r.activations) if n is not None) for r in roundings],
        "rows": rows,
        "worst": [(cell.layer, wording.percent(_loss(cell))) for cell in fewest],
        "open": len(rows) <= _FEW,
        "scale": [effect_colors.color(largest * (n / 11) ** 2, largest) for n in range(12)],
        "largest": wording.percent(largest),
        "types": _types(types, roundings, largest),
        "fp32_vs_reference": found.fp32_vs_reference if view in _AGAINST else None,
        "against": _AGAINST.get(view, ""),
        "agreement": _agreement(found),
    }


def _types(types: Sequence[LayerEffect], roundings: Sequence[Rounding], largest: float) -> list[dict[str, Any]]:
    """All layers of one type spared together."""
    rows = []
    for kind in dict.fromkeys(one.layer for one in types):
        by_rounding = {one.rounding: one for one in types if one.layer == kind}
        cells = [by_rounding.get(rounding) for rounding in roundings]
        colored = [None if cell is None else _colored(_loss(cell), largest) for cell in cells]
        against = [wording.difference(cell and cell.reference_loss) for cell in cells]
        share = next(iter(by_rounding.values())).share
        rows.append({"name": kind, "share": share, "cells": colored, "against": against})
    return rows


def _agreement(found: SensitivityMap) -> list[str]:
    """A line for each two views: "one at a time and the quick estimate: .93 at 2 bits, .98 at 4 bits"."""
    told: dict[tuple[str, str], list[str]] = {}
    bits = {
        rounding.label: min(n for n in (rounding.weights, rounding.activations) if n) for rounding in found.roundings
    }
    for row in found.rank_agreement():
        if row["spearman"] is not None:
            at = f"{wording.correlation(row['spearman'])} at {bits[row['rounding']]} bits"
            told.setdefault(tuple(row["views"]), []).append(at)
    return [f"{_NAMES[one]} and {_NAMES[other]}: {', '.join(each)}" for (one, other), each in told.items()]


def _loss(cell: LayerEffect) -> float:
    return cell.effect if cell.dsc_loss is None else cell.dsc_loss


def _colored(value: float, largest: float) -> dict[str, str]:
    text = "#ffffff" if effect_colors.is_dark(value, largest) else "#191d22"
    return {"text": wording.percent(value), "ground": effect_colors.color(value, largest), "color": text}
