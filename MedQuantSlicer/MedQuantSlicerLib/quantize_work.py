"""Smaller models of the chosen one: with so many bits everywhere, or as few as its masks allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.facts import Quantized, Settings
from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.state import TOLERANCES
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class QuantizeWork:
    """Quantizing, and searching; `measured()` is called once sizes have become known."""

    def __init__(self, works: Works, keeping: Keeping, measured: Callable[[], None]) -> None:
        self._works, self._facts, self._keeping, self._measured = works, works.facts, keeping, measured

    def quantize(self) -> None:
        """As the bits and the options say."""
        facts = self._facts
        if not self._works.can("quantize"):
            return
        facts.safe = False
        settings, scan = facts.settings, facts.volume.digest
        params = {"model": facts.model, **facts.recipe, "again": facts.quantized_fits}
        self._works.run(
            "quantize",
            "quantize",
            "quantize",
            params,
            lambda result: self._made(settings, scan, result),
            with_volume=True,
        )

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
        settings, scan = (facts.model, repr(facts.safe_recipe)), facts.volume.digest
        tolerance = facts.options.tolerance
        params = {"model": facts.model, **facts.safe_recipe, "tolerance": dict(TOLERANCES[tolerance])}

        def known(result: Told) -> None:
            if result["safe"]:
                self._made(settings, scan, result)
            else:
                facts.made.pop(settings, None)
                told = m.nothing_safe(m.TOLERANCES[tolerance], result["found"], result["text"])
                facts.notice = ("quantize", told)
                self._keeping.keep_choices()
            facts.safe = facts.safe_model is not None  # not where another scan or model was chosen meanwhile

        self._works.run("find_safe", "quantize", "find_safe", params, known, with_volume=True)

    def _made(self, settings: Settings, scan: str, result: Told) -> None:
        words = result["handle"], result["bits"], result["text"], result["pieces"], scan, result.get("found", "")
        self._facts.made.pop(settings, None)
        self._facts.made[settings] = Quantized(*words, tuple(result.get("precise", ())))
        self._keeping.keep_choices()
        self._measured()
