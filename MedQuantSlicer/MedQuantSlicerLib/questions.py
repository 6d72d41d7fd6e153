"""Quick questions beside the work: which models there are, how large they become, what is kept on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MedQuantSlicerLib.showing import model_line
from MedQuantSlicerLib.state import BITS
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class Questions:
    """Asks, where the engine can run without being installed first. Nobody waits, so no failure is shown."""

    def __init__(self, works: Works) -> None:
        self._works, self._facts = works, works.facts
        self._asked: set[str] = set()

    def look_around(self) -> None:
        """What there is."""
        self.ask("models", self._models_known)
        self.ask("cache", self.cache_known)
        self.sizes()
        if not self._facts.machine:
            self.ask("machine", lambda told: setattr(self._facts, "machine", told["text"]))

    def ask(self, method: str, known: Callable[[Told], None], params: Told | None = None) -> None:
        """One question, unless the same is under way."""
        if method in self._asked or self._works.host.missing() is not None:
            return
        self._asked.add(method)

        def result(told: Told) -> None:
            self._asked.discard(method)
            known(told)
            self._works.update()

        self._works.engine.request(method, params, on_result=result, on_error=lambda _: self._asked.discard(method))

    def sizes(self, again: bool = False) -> None:
        """What 8, 4 and 2 bits of the chosen model would be; asked with a scan to use them on."""
        facts, key = self._facts, self._facts.choice_key()
        if facts.usable_volume is None or facts.line is None or (key in facts.choices and not again):
            return
        recipe = {name: value for name, value in facts.uniform_recipe.items() if name not in ("bits", "slices")}

        def known(told: Told) -> None:
            facts.choices[key] = told["choices"]
            if facts.choice_key() != key:  # other choices were made meanwhile
                self.sizes()

        self.ask("sizes", known, {"model": facts.model, "bits": list(BITS), **recipe})

    def measured(self) -> None:
        """Sizes, seconds and accuracy have become known: ask again."""
        self.sizes(again=True)
        self.ask("models", self._models_known)

    def listed(self, told: Told) -> None:
        """Put a model into the list, in place of one of the same name."""
        line = model_line(told)
        specs = [one.spec for one in self._facts.models]
        if line.spec in specs:
            self._facts.models[specs.index(line.spec)] = line
        else:
            self._facts.models.append(line)

    def cache_known(self, told: Told) -> None:
        """What is kept."""
        self._facts.cache, self._facts.cache_folder = told["text"], told["folder"]

    def _models_known(self, told: Told) -> None:
        self._facts.models = [model_line(one) for one in told["models"]]
