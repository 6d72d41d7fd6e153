"""Which layers break first, measured cell by cell, and the user's wishes about them."""

from __future__ import annotations

from typing import Any

from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.showing import block_of
from MedQuantSlicerLib.state import BITS, HeatCell, HeatLayer
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class LayerWork:
    """Fills the heatmap of the chosen model."""

    def __init__(self, works: Works, keeping: Keeping) -> None:
        self._works, self._facts, self._keeping = works, works.facts, keeping

    def measure(self) -> None:
        """One layer at a time; what was measured before is forgotten, what is measured until a cancel stays."""
        facts, verb = self._facts, "find_sensitivity"
        if not self._works.can(verb):
            return
        facts.forget_heat()
        facts.heat_of = facts.model
        params = {"model": facts.model, "bits": sorted(BITS), "granularity": facts.options.granularity, "slices": 1}

        def partial(told: Told) -> None:
            self._add(told["cell"])
            self._works.update()

        def known(result: Told) -> None:
            for told in result["cells"]:
                self._add(told)
            facts.heat_complete = True
            self._keeping.keep_choices()

        self._works.run(
            verb,
            "layers",
            "sensitivity",
            params,
            known,
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

    def _add(self, told: Told) -> None:
        name, effect = told["layer"], told["effect"]
        layer = HeatLayer(name, block_of(name), told["kind"], tuple(told["shape"]), told["share"])
        self._facts.heat_layers.setdefault(name, layer)
        cell = HeatCell(name, told["bits"], float("inf") if effect is None else effect)
        self._facts.heat_cells[name, told["bits"]] = cell
