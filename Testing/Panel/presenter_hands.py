"""What a user does to the layers of a presenter, and how the engine answers."""

from __future__ import annotations

from pathlib import Path

from presenter_fakes import Panel

FOUND = {
    "safe": True,
    "found": "Dice .993 on held-out slices",
    "bits": 0,
    "text": "2.0 MB, 3.2 bits/weight (15 MB in FP32)",
    "pieces": 5,
    "precise": ["a", "b"],
}
STOPPED = {"kind": "cancelled", "message": "Stopped."}


def cell(layer: str, bits: int, effect: float, view: str = "proxy", loss: float | None = None) -> dict:
    """As the engine tells it."""
    told = {"layer": layer, "kind": "Linear", "shape": [4, 8], "share": 0.5, "bits": bits, "effect": effect}
    return {**told, "view": view, "dsc_loss": loss, "dsc": None if loss is None else 1 - loss}


def histograms(layer: str) -> dict:
    """Of one layer."""
    weights = {"minimum": -1.0, "maximum": 1.5, "counts": [1, 2]}
    return {"layer": layer, "weights": weights, "inputs": {**weights, "counts": [3, 4]}}


def measured(panel: Panel, view: str, **result: object) -> None:
    """A view is chosen and measured to its end."""
    panel.presenter.set_option("view", view)
    panel.presenter.find_sensitivity()
    cells = [cell(layer, 2, effect) for layer, effect in (("a", 0.5), ("b", 0.2))]
    if view != "proxy":
        cells += [cell("a", 2, 0.3, view, 0.01), cell("b", 2, 0.1, view, 0.04)]
    panel.engine.last.tell("partial", {"histograms": [histograms("a"), histograms("b")]})
    panel.engine.last.tell("result", {"cells": cells, "agreement": [], **result})


def safe(panel: Panel, path: Path, **more: object) -> None:
    """The search is pressed and ends."""
    path.touch()
    panel.presenter.find_safe()
    panel.engine.last.tell("result", {**FOUND, "handle": str(path), **more})


# -- views
