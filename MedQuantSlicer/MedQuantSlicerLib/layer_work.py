"""Which layers break first, measured cell by cell, and the user's wishes about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import Any

from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.layer_facts import Agreement, Heat, MapKind, Sensitivity
from MedQuantSlicerLib.layer_showing import QUICK, block_of, chosen_heat
from MedQuantSlicerLib.layer_state import HeatCell, HeatLayer, Histogram, TypeCell
from MedQuantSlicerLib.state import BITS
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class LayerWork:
    """Fills the maps of the chosen model and scan; what is chosen later changes nothing of what runs."""

    def __init__(self, works: Works, keeping: Keeping) -> None:
        self._works, self._facts, self._keeping = works, works.facts, keeping

    def measure(self) -> None:
        """The chosen view; the quick estimate comes along with every other one. A complete map that was there before
        stays where this is stopped; else what is measured until then stays."""
        facts, verb, options = self._facts, "find_sensitivity", self._facts.options
        if not self._works.can(verb):
            return
        before, rounding = facts.sensitivity, (options.what, options.granularity)
        views = tuple(dict.fromkeys((QUICK, options.view)))
        reference = "" if options.view == QUICK else facts.reference  # a quick estimate looks at no masks
        new = {MapKind(view, *rounding): Heat(reference="" if view == QUICK else reference) for view in views}
        old = {kind: heat for kind, heat in before.heats.items() if kind in new and heat.complete}
        # A map that was stopped has not ranked the layers: no agreement is to be had with it.
        others = [kind for kind, heat in before.heats.items() if kind[1:] == rounding and heat.complete]
        known = [told_of(before, kind) for kind in others if kind not in new]
        params = {
            "model": facts.model,
            "bits": sorted(BITS),
            "granularity": options.granularity,
            "slices": 1,
            "views": views,
            "what": options.what,
            "known": known,
        }
        facts.measuring = MapKind(options.view, *rounding)

        def add(told: Told) -> None:
            """A map takes the place of the one before with its first cell."""
            found, kind = self._known(before), MapKind(told.get("view", QUICK), *rounding)
            layer = layer_of(told)
            found.layers.setdefault(layer.name, layer)
            found.heats[kind] = new.setdefault(kind, Heat())
            found.heats[kind].cells[layer.name, told["bits"]] = cell_of(told)

        def partial(told: Told) -> None:
            if "cell" in told:
                add(told["cell"])
            for one in told.get("histograms", ()):
                pair = histogram_of(one["weights"]), histogram_of(one["inputs"])
                self._known(before).histograms[one["layer"]] = pair
            self._works.update()

        def result(told: Told) -> None:
            for cell in told["cells"]:
                add(cell)
            for kind, heat in new.items():
                heat.complete = True
                heat.types = tuple(type_of(one) for one in told.get("types", ()) if one["view"] == kind.view)
                heat.fp32_vs_reference = told.get("fp32_vs_reference") if heat.reference else None
            found = self._known(before)
            found.agreements = [one for one in found.agreements if (one.what, one.granularity) != rounding] + [
                Agreement(*rounding, tuple(row["views"]), row["bits"], row["spearman"])
                for row in told.get("agreement", ())
                if row["spearman"] is not None
            ]
            self._keeping.keep_choices()

        def stopped() -> None:
            found = self._known(before)
            found.heats |= old
            begun = [kind for kind, heat in new.items() if heat.cells and kind not in old]
            found.agreements = [one for one in found.agreements if not any(map(one.is_about, begun))]
            self._keeping.keep_choices()

        how = {"with_volume": True, "with_reference": bool(reference), "on_partial": partial, "on_failed": stopped}
        self._works.run(verb, "layers", "sensitivity", params, result, **how)

    def _known(self, of: Sensitivity) -> Sensitivity:
        """What is known of a model on a scan, to be added to."""
        facts = self._facts
        found = facts.sensitivity_of(of.model, of.scan)
        if all(found is not one for one in facts.sensitivities):
            facts.sensitivities.append(found)
        return found

    def keep(self, layer: str, bits: int) -> None:
        """Keep a layer at `bits`, or where it is kept so, no longer."""
        wishes = dict(self._facts.wishes)
        if wishes.get(layer) == bits:
            del wishes[layer]
        else:
            wishes[layer] = bits
        self._facts.overrides[self._facts.model] = wishes

    def measured(self) -> frozenset[tuple]:
        """The cells of all maps with their values, by model, scan and kind of map."""
        return frozenset(
            (one.model, one.scan, *kind, *astuple(cell))
            for one in self._facts.sensitivities
            for kind, heat in one.heats.items()
            for cell in heat.cells.values()
        )

    def for_report(self) -> Told | None:
        """The map that is shown, as the engine takes it, and others of the same rounding; None where there is none."""
        known, shown = self._facts.sensitivity, chosen_heat(self._facts)
        if shown is None:
            return None
        heat = known.heats[shown]
        others = [kind for kind, one in known.heats.items() if kind != shown and kind[1:] == shown[1:] and one.complete]
        return {
            **told_of(known, shown),
            "types": told_cells(heat.types),
            "fp32_vs_reference": heat.fp32_vs_reference,
            "others": [told_of(known, kind) for kind in others if heat.complete],
        }


def told_of(known: Sensitivity, kind: MapKind) -> Told:
    """One map, as the engine takes it."""
    layers = [
        {"name": one.name, "kind": one.kind, "shape": one.shape, "share": one.share} for one in known.layers.values()
    ]
    return {
        "view": kind.view,
        "what": kind.what,
        "layers": layers,
        "cells": told_cells(known.heats[kind].cells.values()),
    }


def told_cells(cells: Iterable[HeatCell]) -> list[Told]:
    """Cells, as the engine takes them."""
    told = [asdict(cell) for cell in cells]
    return [{**cell, "effect": None if cell["effect"] == float("inf") else cell["effect"]} for cell in told]


def layer_of(told: Told) -> HeatLayer:
    """The layer of a cell, as the engine tells it."""
    return HeatLayer(told["layer"], block_of(told["layer"]), told["kind"], tuple(told["shape"]), told["share"])


def cell_of(told: Told) -> HeatCell:
    """As the engine tells it."""
    return HeatCell(*_measured(told))


def type_of(told: Told) -> TypeCell:
    """The same of a type of layers."""
    return TypeCell(*_measured(told), told["share"])


def _measured(told: Told) -> tuple[Any, ...]:
    effect = float("inf") if told["effect"] is None else told["effect"]
    return told["layer"], told["bits"], effect, told.get("dsc_loss"), told.get("dsc"), told.get("reference_loss")


def histogram_of(told: Told) -> Histogram:
    """As the engine tells it."""
    return Histogram(told["minimum"], told["maximum"], tuple(told["counts"]))
