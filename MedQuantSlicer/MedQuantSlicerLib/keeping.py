"""Results that are saved with the scene: written into it as text, and taken back when it is opened or a scan is chosen
again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from MedQuantSlicerLib.facts import Computed, Quantized, frozen, same
from MedQuantSlicerLib.host import CHOICES, COMPARISON, FP32, QUANTIZED
from MedQuantSlicerLib.showing import table_of
from MedQuantSlicerLib.state import HeatCell, HeatLayer
from MedQuantSlicerLib.works import Works


class Keeping:
    """Keeps masks, comparison and choices with the scene of the host."""

    def __init__(self, works: Works) -> None:
        self._facts, self._host = works.facts, works.host

    # -- into the scene

    def keep_masks(self, kind: str) -> None:
        """What is known of the masks of a kind, beside them."""
        found = self._facts.masks[kind]
        told = {name: value for name, value in found.told.items() if name not in ("array", "offset")}
        self._keep(kind, told=told, source=found.source, title=found.title, state=found.state, **self._scan())

    def keep_comparison(self) -> None:
        """The comparison, beside the masks."""
        facts = self._facts
        if facts.table is None:
            self._host.keep(COMPARISON, "")
            return
        difference = {
            name: value for name, value in (facts.difference or {}).items() if name not in ("array", "offset")
        }
        about = {"reference": facts.compared[-2], "states": facts.compared[-1]}
        self._keep(COMPARISON, table=asdict(facts.table), worst=facts.worst, difference=difference, **about)

    def keep_choices(self) -> None:
        """Quantized models, the layers' sensitivity, and the wishes about them, beside the other choices."""
        facts = self._facts
        made = [[*settings, asdict(one)] for settings, one in facts.made.items()]
        heat = {
            "of": facts.heat_of,
            "complete": facts.heat_complete,
            "layers": [asdict(one) for one in facts.heat_layers.values()],
            "cells": [asdict(one) for one in facts.heat_cells.values()],
            "scan": facts.volume.name if facts.volume else "",
            **self._scan(),
        }
        wishes = {model: kept for model, kept in facts.overrides.items() if kept}
        if made or wishes or facts.heat_cells or self._host.kept(CHOICES):
            self._keep(CHOICES, made=made, wishes=wishes, heat=heat if facts.heat_cells else None)

    # -- back from it

    def take_choices(self) -> None:
        """The choices of the scene that is open now; quantized models whose file is gone are not among them."""
        facts, kept = self._facts, self._kept(CHOICES)
        facts.overrides = dict(kept.get("wishes") or {})
        for model, recipe, one in kept.get("made") or ():
            if Path(one["handle"]).is_file():
                facts.made.setdefault((model, recipe), Quantized(**one))

    def take_results(self) -> None:
        """Masks, comparison and sensitivity of the chosen scan, where nothing is known of them yet."""
        facts = self._facts
        for kind in (FP32, QUANTIZED):
            kept = self._kept(kind)
            if kind not in facts.masks and kept and self._is_about_scan(kept):
                source = (facts.volume_key, *frozen(kept["source"])[1:])
                facts.masks[kind] = Computed(kept["told"], source, kept["title"], kept["state"])
        kept = self._kept(COMPARISON)
        if facts.table is None and kept and facts.comparable:
            facts.table, facts.worst, facts.difference = table_of(kept["table"]), kept["worst"], kept["difference"]
            facts.compared = facts.comparison_about(kept["reference"], frozen(kept["states"]))
        self._take_heat(self._kept(CHOICES).get("heat"))

    def _take_heat(self, kept: dict[str, Any] | None) -> None:
        facts = self._facts
        if facts.heat_cells or not kept or not self._is_about_scan(kept) or kept["scan"] != facts.volume.name:
            return
        facts.heat_of, facts.heat_complete = kept["of"], kept["complete"]
        layers = (HeatLayer(**{**one, "shape": tuple(one["shape"])}) for one in kept["layers"])
        facts.heat_layers = {one.name: one for one in layers}
        cells = (HeatCell(**{**one, "effect": float(one["effect"])}) for one in kept["cells"])
        facts.heat_cells = {(one.layer, one.bits): one for one in cells}

    # -- text

    def _scan(self) -> dict[str, Any]:
        """Where the scan lies: what was computed before it was moved is not about it any more."""
        volume = self._facts.volume
        return {"grid": [volume.shape, volume.ijk_to_lps] if volume is not None else []}

    def _is_about_scan(self, kept: dict[str, Any]) -> bool:
        return same(frozen(kept["grid"]), frozen(self._scan()["grid"]))

    def _keep(self, what: str, **content: Any) -> None:
        self._host.keep(what, json.dumps(content))

    def _kept(self, what: str) -> dict[str, Any]:
        try:
            kept = json.loads(self._host.kept(what) or "{}")
        except ValueError:
            return {}
        return kept if isinstance(kept, dict) else {}
