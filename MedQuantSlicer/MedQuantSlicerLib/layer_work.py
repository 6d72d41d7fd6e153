"""Which layers break first, measured cell by cell, and the user's wishes about them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from MedQuantSlicerLib.facts import Agreement, Heat
from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.layer_showing import QUICK, block_of, chosen_heat
from MedQuantSlicerLib.state import BITS, HeatCell, HeatLayer, Histogram
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class LayerWork:
    """Fills the heatmap of the chosen model."""

    def __init__(self, works: Works, keeping: Keeping) -> None:
        self._works, self._facts, self._keeping = works, works.facts, keeping

    def measure(self) -> None:
        """The chosen view; the quick estimate comes along with every other one. What was measured in these views before
        is forgotten, what is measured until a cancel stays."""
        facts, verb = self._facts, "find_sensitivity"
        if not self._works.can(verb):
            return
        if facts.heat_of != facts.model:
            facts.forget_heat()
            facts.heat_of = facts.model
        what, views = facts.options.what, tuple(dict.fromkeys((QUICK, facts.options.view)))
        known = [told_of(facts, one) for one in facts.heats if one[1] == what and one[0] not in views]
        for view in views:
            facts.heats[view, what] = Heat()
        facts.agreements = [one for one in facts.agreements if one.what != what or not set(one.views) & set(views)]
        params = {
            "model": facts.model,
            "bits": sorted(BITS),
            "granularity": facts.options.granularity,
            "slices": 1,
            "views": views,
            "what": what,
            "known": known,
        }

        def partial(told: Told) -> None:
            if "cell" in told:
                self._add(told["cell"], what)
            for one in told.get("histograms", ()):
                facts.histograms[one["layer"]] = histogram_of(one["weights"]), histogram_of(one["inputs"])
            self._works.update()

        def result(told: Told) -> None:
            for cell in told["cells"]:
                self._add(cell, what)
            for view in views:
                facts.heats[view, what].complete = True
            before = [one for one in facts.agreements if one.what != what]
            facts.agreements = before + [
                Agreement(what, tuple(row["views"]), row["bits"], row["spearman"])
                for row in told.get("agreement", ())
                if row["spearman"] is not None
            ]
            self._keeping.keep_choices()

        self._works.run(
            verb,
            "layers",
            "sensitivity",
            params,
            result,
            with_volume=True,
            on_partial=partial,
            on_failed=self._keeping.keep_choices,
        )

    def keep(self, layer: str, bits: int) -> None:
        """Keep a layer at `bits`, or where it is kept so, no longer."""
        wishes = dict(self._facts.wishes)
        if wishes.get(layer) == bits:
            del wishes[layer]
        else:
            wishes[layer] = bits
        self._facts.overrides[self._facts.model] = wishes

    def for_report(self) -> Told | None:
        """The map that is shown, as the engine takes it; None where there is none."""
        shown = chosen_heat(self._facts)
        return told_of(self._facts, shown) if shown is not None else None

    def _add(self, told: Told, what: str) -> None:
        facts, name, effect = self._facts, told["layer"], told["effect"]
        layer = HeatLayer(name, block_of(name), told["kind"], tuple(told["shape"]), told["share"])
        facts.heat_layers.setdefault(name, layer)
        effect = float("inf") if effect is None else effect
        cell = HeatCell(name, told["bits"], effect, told.get("dsc_loss"), told.get("dsc"))
        facts.heats.setdefault((told.get("view", QUICK), what), Heat()).cells[name, cell.bits] = cell


def told_of(facts: Any, kind: tuple[str, str]) -> Told:
    """One view, as the engine takes it."""
    layers = [
        {"name": one.name, "kind": one.kind, "shape": one.shape, "share": one.share}
        for one in facts.heat_layers.values()
    ]
    cells = [asdict(cell) for cell in facts.heats[kind].cells.values()]
    for cell in cells:
        cell["effect"] = None if cell["effect"] == float("inf") else cell["effect"]
    return {"view": kind[0], "what": kind[1], "layers": layers, "cells": cells}


def histogram_of(told: Told) -> Histogram:
    """As the engine tells it."""
    return Histogram(told["minimum"], told["maximum"], tuple(told["counts"]))
