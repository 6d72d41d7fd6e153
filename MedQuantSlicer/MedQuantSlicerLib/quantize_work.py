"""Smaller models of the chosen one: with so many bits everywhere, or as few as its masks allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.results import Quantized
from MedQuantSlicerLib.state import TOLERANCES
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class QuantizeWork:
    """Quantizing, and searching; `measured()` is called once sizes have become known."""

    def __init__(self, works: Works, keeping: Keeping, measured: Callable[[], None]) -> None:
        self._works, self._facts, self._keeping, self._measured = works, works.facts, keeping, measured

    def quantize(self) -> None:
        """As the bits and the options say; that is chosen then, in place of the smallest safe model."""
        facts = self._facts
        if not self._works.can("quantize"):
            return
        recipe = facts.uniform_recipe
        params = {"model": facts.model, **recipe, "again": facts.fits(facts.made_by(recipe))}
        made, chosen = self._made(recipe), self._chosen

        def known(result: Told) -> None:
            made(result)
            if self._chosen == chosen:
                facts.safe = False

        self._works.run("quantize", "quantize", "quantize", params, known, with_volume=True)

    def find_safe(self) -> None:
        """The smallest model whose masks stay within the tolerance; where it was found and others are chosen, that."""
        facts = self._facts
        if not self._works.can("find_safe"):
            return
        if facts.safe_model is not None and not facts.safe:
            facts.safe = True
            self._works.dismiss()
            self._works.update()
            return
        recipe, tolerance = facts.safe_recipe, facts.options.tolerance
        settings, made, chosen = facts.settings_of(recipe), self._made(recipe), self._chosen
        boxes = [asdict(box) for box in facts.boxes] if facts.needs_box else []
        checked_with = {"boxes": boxes, "plane": facts.options.plane, "tolerance": dict(TOLERANCES[tolerance])}
        params = {"model": facts.model, **recipe, **checked_with}

        def known(result: Told) -> None:
            if result["safe"]:
                made(result)
            else:
                facts.made.pop(settings, None)
                told = m.nothing_safe(m.TOLERANCES[tolerance], result["found"], result["text"])
                facts.notice = ("quantize", told)
                self._keeping.keep_choices()
            if self._chosen == chosen:
                facts.safe = facts.safe_model is not None

        self._works.run("find_safe", "quantize", "find_safe", params, known, with_volume=True)

    @property
    def _chosen(self) -> tuple:
        """What the user chooses for: a model that is ready is chosen itself only where that is still the same."""
        return self._facts.model, self._facts.bits, self._facts.safe

    def _made(self, recipe: Told) -> Callable[[Told], None]:
        """Takes the model that is made by a recipe, of the model and scan that are chosen now."""
        facts, settings = self._facts, self._facts.settings_of(recipe)

        def made(result: Told) -> None:
            words = result["handle"], result["bits"], result["text"], result["pieces"], settings[-1]
            facts.made.pop(settings, None)
            found = result.get("found", ""), tuple(result.get("precise", ())), bool(result.get("uneven"))
            facts.made[settings] = Quantized(*words, *found)
            self._keeping.keep_choices()
            self._measured()

        return made
