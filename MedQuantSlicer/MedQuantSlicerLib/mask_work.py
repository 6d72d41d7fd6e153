"""Masks: computed one model after the other, shown as they come, then compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.facts import Computed
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED, Masks
from MedQuantSlicerLib.showing import table_of
from MedQuantSlicerLib.state import State
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


class MaskWork:
    """Segmenting, comparing and reporting, as steps that follow each other."""

    def __init__(self, works: Works, measured: Callable[[], None]) -> None:
        self._works, self._facts = works, works.facts
        self._measured = measured
        """Called once seconds and accuracy are known."""

    def segment(self) -> None:
        """What is wanted and not there yet, FP32 first; all of it where everything is there already."""
        facts = self._facts
        if not self._works.can("segment"):
            return
        wanted = facts.wanted_masks()
        missing = [kind for kind in wanted if not facts.is_current(kind)] or list(wanted)
        quantized = facts.quantized
        titles = {FP32: m.bits(32), QUANTIZED: m.bits(quantized.bits) if quantized else ""}
        shown = [facts.masks[kind].title if kind in facts.masks else titles[kind] for kind in (FP32, QUANTIZED)]
        self._works.begin("segment", lambda: (self._works.host.show_pair(*shown), self._next(missing, titles)))

    def compare(self) -> None:
        """The masks that are there, and the reference that is chosen."""
        if self._works.can("compare"):
            self._works.begin("compare", self._compare)

    def report(self, path: str) -> None:
        """Write the page."""
        params = self._pair()
        facts = self._facts
        line, latest = facts.line, facts.latest
        params |= {
            "path": path,
            "handle": latest.handle if latest else "",
            "title": line.title if line else "",
            "licence": line.licence if line else "",
            "reference_from": facts.reference,
        }

        def known(result: Told) -> None:
            facts.notice = ("compare", m.saved(result["path"]))

        self._works.run(
            "save_report", "compare", "report", params, known, with_volume=True, with_reference=bool(facts.reference)
        )

    # -- segmenting

    def _next(self, kinds: list[str], titles: Mapping[str, str]) -> None:
        """Masks of the first kind, then of the others, then the comparison."""
        facts = self._facts
        if not kinds:
            if facts.comparable:
                self._compare()
            return
        kind, *rest = kinds
        if kind not in facts.wanted_masks() or (kind == QUANTIZED and facts.quantized is None):
            return  # other choices were made meanwhile
        source = facts.source(kind)
        begun = False

        def partial(told: Told) -> None:
            nonlocal begun
            begun = True
            self._show(kind, told["masks"], titles[kind], partial=True)
            self._works.files.discard(told["masks"])

        def known(result: Told) -> None:
            if source[0] != facts.volume_key:  # another scan was chosen meanwhile
                self._works.files.discard(result["mask"])
                return
            old = facts.masks.get(kind)
            title = "  ".join(filter(None, (titles[kind], result["size_text"], result["seconds_text"])))
            facts.masks[kind] = Computed(result["mask"], source, title)
            self._show(kind, result["mask"], titles[kind])
            self._works.files.discard(old.told if old else None)
            self._forget_difference()
            self._works.host.show_pair(*(facts.masks[k].title if k in facts.masks else "" for k in (FP32, QUANTIZED)))
            self._next(rest, titles)

        def failed() -> None:
            if begun and kind in facts.masks:
                self._show(kind, facts.masks[kind].told, titles[kind])
            elif begun:
                self._works.host.remove_masks(kind)

        self._works.step(
            State.SEGMENTING,
            "segment",
            "segment",
            self._params(kind),
            known,
            with_volume=True,
            on_partial=partial,
            on_failed=failed,
        )

    def _params(self, kind: str) -> Told:
        facts = self._facts
        model = facts.model if kind == FP32 else facts.quantized.handle
        options = facts.options
        boxes = [asdict(box) for box in facts.boxes] if facts.needs_box else []
        how = {"plane": options.plane, "extent": options.extent, "runtime": options.runtime}
        return {"model": model, "of": facts.model, "boxes": boxes, **how}

    def _show(self, kind: str, told: Mapping[str, Any], title: str, partial: bool = False) -> None:
        labels = {int(value): name for value, name in told["labels"].items()}
        offset = tuple(told.get("offset", (0, 0, 0)))
        masks = Masks(self._works.engine.path(told["array"]), labels, offset, title)
        self._works.host.show_masks(kind, masks, partial)

    # -- comparing

    def _pair(self) -> Told:
        """The masks as the engine takes them."""
        facts = self._facts
        return {kind: facts.masks[kind].told for kind in (FP32, QUANTIZED)} | {"of": facts.model}

    def _compare(self) -> None:
        facts, about = self._facts, self._facts.comparison_of

        def known(result: Told) -> None:
            if about != facts.comparison_of:
                self._works.files.discard(result["difference"])
                return
            old = facts.difference
            facts.table, facts.compared = table_of(result["table"]), about
            facts.worst, facts.difference = result["worst"], result["difference"]
            self._measured()
            if facts.difference_shown:
                self.show_difference()
            self._works.files.discard(old)

        self._works.step(
            State.COMPARING,
            "compare",
            "compare",
            self._pair(),
            known,
            with_volume=True,
            with_reference=bool(facts.reference),
        )

    def show_difference(self) -> None:
        """The difference as a segmentation of its own."""
        if self._facts.difference is not None:
            self._show(DIFFERENCE, self._facts.difference, m.TEXTS["difference"])

    def _forget_difference(self) -> None:
        """It belongs to other masks."""
        if self._facts.difference_shown:
            self._works.host.remove_masks(DIFFERENCE)
        self._works.files.discard(self._facts.difference)
        self._facts.difference, self._facts.difference_shown = None, False
        self._facts.table = self._facts.worst = None
