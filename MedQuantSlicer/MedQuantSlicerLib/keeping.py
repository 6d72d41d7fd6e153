"""Results that are saved with the scene: written into it as text, and taken back when it is opened or a scan is chosen
again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from MedQuantSlicerLib.host import CHOICES, COMPARISON, FP32, QUANTIZED
from MedQuantSlicerLib.layer_facts import Agreement, Heat, MapKind, Sensitivity
from MedQuantSlicerLib.layer_state import HeatCell, HeatLayer, Histogram, TypeCell
from MedQuantSlicerLib.likeness import frozen, same, turned
from MedQuantSlicerLib.portable import local, portable
from MedQuantSlicerLib.results import Computed, Quantized
from MedQuantSlicerLib.showing import table_of
from MedQuantSlicerLib.state import Table
from MedQuantSlicerLib.works import Works

NOT_OURS = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What text of another version, or damaged text, makes of us: that item is ignored."""
PLAIN = {"str": str, "int": int, "bool": bool, "float": int | float, "float | None": int | float | None}


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
        made = [[model, recipe, asdict(one)] for (model, recipe, _scan), one in facts.made.items()]
        wishes = {model: kept for model, kept in facts.overrides.items() if kept}
        measured = [_told_of(one) for one in facts.sensitivities if one.heats]
        if made or wishes or measured or self._host.kept(CHOICES):
            self._keep(CHOICES, made=made, wishes=wishes, measured=measured)

    # -- back from it

    def take_choices(self) -> None:
        """The choices of the scene that is open now; quantized models whose file is gone are not among them."""
        facts, kept = self._facts, self._kept(CHOICES)
        facts.overrides, facts.sensitivities = {}, []
        _each(kept.get("wishes"), self._take_wishes)
        _each(kept.get("made"), self._take_made)
        _each(kept.get("measured"), self._take_sensitivity)

    def _take_wishes(self, kept: Any) -> None:
        model, wishes = kept
        self._facts.overrides[str(model)] = {str(layer): int(bits) for layer, bits in wishes.items()}

    def _take_made(self, kept: Any) -> None:
        model, recipe, told = kept
        one = _made_of(Quantized, {**told, "precise": _words(told.get("precise", ()))})
        if Path(one.handle).is_file():
            self._facts.made.setdefault((str(model), str(recipe), one.scan), one)

    def take_results(self) -> None:
        """Masks and comparison of the chosen scan, where nothing is known of them yet."""
        _each((FP32, QUANTIZED), self._take_masks)
        _each((self._kept(COMPARISON),), self._take_comparison)

    def _take_masks(self, kind: str) -> None:
        facts, kept = self._facts, self._kept(kind)
        if kind in facts.masks or not kept or not self._is_about_scan(kept):
            return
        source = (facts.volume_key, *frozen(kept["source"])[1:])
        if len(source) != len(facts.source(kind)) or not isinstance(kept["told"], Mapping):
            raise ValueError("of another version")
        told = {name: kept[name] for name in ("told", "title", "state")}
        facts.masks[kind] = _made_of(Computed, {**told, "source": source})

    def _take_comparison(self, kept: dict[str, Any]) -> None:
        facts = self._facts
        if facts.table is not None or not kept or not facts.comparable:
            return
        table, difference, worst = _table(kept["table"]), kept["difference"], kept["worst"]
        if worst:
            x, y, z = _numbers(worst["position"])
            worst = {"text": str(worst["text"]), "position": [x, y, z]}
        if difference and "per_slice" in difference:
            difference = {**difference, "per_slice": [_numbers(axis) for axis in difference["per_slice"]]}
        compared = facts.comparison_about(str(kept["reference"]), frozen(kept["states"]))
        facts.table, facts.worst, facts.difference, facts.compared = table, worst, difference, compared

    def _take_sensitivity(self, kept: dict[str, Any]) -> None:
        digest, shape, matrix = kept["scan"]
        found = Sensitivity(str(kept["of"]), (str(digest), _tuple(shape), turned([_tuple(row) for row in matrix])))
        layers = [_made_of(HeatLayer, {**one, "shape": _tuple(one["shape"])}) for one in kept["layers"]]
        found.layers = {one.name: one for one in layers}
        self._facts.sensitivities.append(found)
        _each(kept["views"], partial(_take_view, found))
        _each(kept["agreements"], partial(_take_agreement, found))
        _each(kept["histograms"], partial(_take_histograms, found))

    # -- text

    def _scan(self) -> dict[str, Any]:
        """Where the scan lies and what it holds: what was computed before is not about another one."""
        volume = self._facts.volume
        return {
            "grid": [volume.shape, volume.ijk_to_lps] if volume is not None else [],
            "voxels": volume.digest if volume is not None else "",
        }

    def _is_about_scan(self, kept: dict[str, Any]) -> bool:
        scan = self._scan()
        return same(frozen(kept["grid"]), frozen(scan["grid"])) and kept["voxels"] == scan["voxels"]

    def _keep(self, what: str, **content: Any) -> None:
        self._host.keep(what, json.dumps(portable(content)))

    def _kept(self, what: str) -> dict[str, Any]:
        try:
            kept = local(json.loads(self._host.kept(what) or "{}"))
        except (ValueError, RecursionError):
            return {}
        return kept if isinstance(kept, dict) else {}


def _each(items: Any, take: Callable[[Any], None]) -> None:
    """Take back what can be, item by item."""
    with suppress(*NOT_OURS):
        for item in items.items() if isinstance(items, dict) else items or ():
            with suppress(*NOT_OURS):
                take(item)


def _made_of(kind: Any, told: Mapping[str, Any]) -> Any:
    """A dataclass of what was kept. Raises `TypeError` where its fields are others, or hold something else."""
    made = kind(**told)
    for field in fields(kind):
        if not isinstance(getattr(made, field.name), PLAIN.get(field.type, object)):
            raise TypeError(f"{field.name} is no {field.type}")
    return made


def _told_of(one: Sensitivity) -> dict[str, Any]:
    """What was measured, as it is kept."""
    return {
        "of": one.model,
        "scan": one.scan,
        "layers": [asdict(layer) for layer in one.layers.values()],
        "views": [
            {
                **kind._asdict(),
                "complete": heat.complete,
                "cells": list(map(asdict, heat.cells.values())),
                "types": list(map(asdict, heat.types)),
                "reference": heat.reference,
                "fp32_vs_reference": heat.fp32_vs_reference,
            }
            for kind, heat in one.heats.items()
        ],
        "agreements": [asdict(agreement) for agreement in one.agreements],
        "histograms": [[layer, *map(asdict, pair)] for layer, pair in one.histograms.items()],
    }


def _take_view(to: Sensitivity, kept: dict[str, Any]) -> None:
    cells = _cells(HeatCell, kept["cells"])
    known = {(one.layer, one.bits): one for one in cells if one.layer in to.layers}
    if known:
        kind = MapKind(str(kept["view"]), str(kept["what"]), str(kept["granularity"]))
        types, dice = _cells(TypeCell, kept.get("types", ())), kept.get("fp32_vs_reference")
        against = str(kept.get("reference", "")), None if dice is None else float(dice)
        to.heats[kind] = Heat(known, bool(kept["complete"]), types, *against)


def _cells(kind: Any, kept: Any) -> tuple[Any, ...]:
    return tuple(_made_of(kind, {**one, "effect": float(one["effect"])}) for one in kept)


def _take_agreement(to: Sensitivity, kept: dict[str, Any]) -> None:
    one, other = _words(kept["views"])
    to.agreements.append(_made_of(Agreement, {**kept, "views": (one, other)}))


def _take_histograms(to: Sensitivity, kept: Any) -> None:
    layer, *pair = kept
    weights, inputs = (_made_of(Histogram, {**one, "counts": _tuple(one["counts"])}) for one in pair)
    to.histograms[str(layer)] = weights, inputs


def _tuple(values: Any) -> tuple[float, ...]:
    return tuple(_numbers(values))


def _numbers(values: Any) -> list[float]:
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError("no numbers")
    return list(values)


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise TypeError("no words")
    return tuple(values)


def _table(told: Mapping[str, Any]) -> Table:
    """Raises `TypeError` where a table holds something else than words."""
    table = table_of(told)
    for one in (table, *table.rows, *(cell for row in table.rows for cell in row.cells)):
        _made_of(type(one), vars(one))
    words = (*table.columns, *table.tooltips, *table.notes, *(badge for row in table.rows for badge in row.badges))
    if not all(isinstance(word, str) for word in words):
        raise TypeError("no words")
    return table
