"""The map of sensitivities as a table of coloured cells, for a page."""

from __future__ import annotations

import math
from typing import Any

from medquant.evaluation import effect_colors, wording
from medquant.sensitivity.effects import LayerEffect, SensitivityMap

_WORST = 5
_FEW = 100
"""So many layers are shown at once; more of them are folded."""
_VIEWS = {
    "one-at-a-time": "Each layer is rounded alone ({what}); the numbers are the Dice against FP32 that this costs.",
    "incremental": "All layers but one are rounded ({what}); the numbers are the Dice that sparing it gains.",
    "proxy": "A quick estimate: each layer is rounded alone ({what}); the numbers are the change of its own output. "
    "Masks were not looked at.",
}


def sensitivity_table(found: SensitivityMap) -> dict[str, Any]:
    """The first view of a map as rows of coloured cells, in the words of the page, most bits first: what becomes of the
    masks where they were looked at, else of the layers' own output. Layers that were not measured are left out."""
    view, roundings = found.cells[0].view, found.roundings[::-1]
    columns = [found.column(rounding, view) for rounding in roundings]
    cells = [cell for column in columns for cell in column.values()]
    known = [value for cell in cells if math.isfinite(value := _loss(cell))]
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
    }


def _loss(cell: LayerEffect) -> float:
    return cell.effect if cell.dsc_loss is None else cell.dsc_loss


def _colored(value: float, largest: float) -> dict[str, str]:
    text = "#ffffff" if effect_colors.is_dark(value, largest) else "#191d22"
    return {"text": wording.percent(value), "ground": effect_colors.color(value, largest), "color": text}
