"""Masks: computed one model after the other, shown as they come, then compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.facts import REFERENCE, Part
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED, Masks
from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.likeness import same
from MedQuantSlicerLib.results import Computed
from MedQuantSlicerLib.showing import table_of
from MedQuantSlicerLib.state import State
from MedQuantSlicerLib.works import Works

Told = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """Masks that are to be computed, as they were asked for: what is chosen later changes nothing of it."""

    kind: str
    title: str
    """"FP32", "4-bit"."""
    source: tuple
    params: Told


class MaskWork:
    """Segmenting, comparing and reporting, as steps that follow each other."""

    def __init__(self, works: Works, keeping: Keeping, measured: Callable[[], None]) -> None:
        self._works, self._facts, self._keeping = works, works.facts, keeping
        self._measured = measured
        """Called once seconds and accuracy are known."""

    def segment(self) -> None:
        """What is wanted and not there yet, FP32 first; all of it where everything is there already."""
        facts = self._facts
        if not self._works.can("segment"):
            return
        wanted = facts.wanted_masks()
        missing = [kind for kind in wanted if not facts.is_current(kind)] or list(wanted)
        self.look_at_states()
        if any(facts.edited(kind) for kind in missing) and not self._works.host.confirm(m.ASK_REPLACE):
            return
        orders = [self._order(kind) for kind in missing]
        self._works.begin("segment", lambda: (self._works.host.show_pair(), self._next(orders, len(orders))))

    def compare(self) -> None:
        """The masks that are there, and the reference that is chosen."""
        if self._works.can("compare"):
            self._works.begin("compare", self._compare)

    def report(self, path: str, sensitivity: Told | None = None) -> None:
        """Write the page, with the layers' sensitivity where it was measured."""
        facts, params = self._facts, self._pair()
        line = facts.line_of(params["of"])  # another model may be chosen by now
        params |= {
            "path": path,
            "title": line.title if line else "",
            "licence": line.licence if line else "",
            "reference_from": facts.reference,
            "sensitivity": sensitivity if params["of"] == facts.model else None,
        }

        def known(result: Told) -> None:
            facts.notice = ("compare", m.saved(result["path"]))

        self._works.run("save_report", "compare", "report", params, known, late=known, **self._scene())

    # -- segmenting

    def _order(self, kind: str) -> Order:
        """Masks of a kind by the choices of now."""
        facts, options = self._facts, self._facts.options
        made_by = facts.quantized if kind == QUANTIZED else None
        params = {
            "model": made_by.handle if made_by else facts.model,
            "of": facts.model,
            "boxes": [asdict(box) for box in facts.boxes] if facts.needs_box else [],
            "plane": options.plane,
            "extent": options.extent,
            "runtime": options.runtime,
        }
        return Order(kind, m.bits(made_by.bits if made_by else 32), facts.source(kind), params)

    def _next(self, orders: Sequence[Order], count: int) -> None:
        """The first masks of those that are left of `count`, then the others, then the comparison."""
        facts, host = self._facts, self._works.host
        if not orders:
            if facts.comparable:
                self._compare()
            return
        order, *rest = orders
        kind = order.kind
        put_back: Callable[[], None] | None = None

        def partial(told: Told) -> None:
            nonlocal put_back
            if put_back is None:
                put_back = host.set_aside(kind)
                host.keep(kind, "")
                facts.coming = (kind, order.title)
                self._works.update()
            self._show(kind, told["masks"], order.title, partial=True)
            self._works.files.discard(told["masks"])

        def known(result: Told) -> None:
            facts.coming = ("", "")
            old = facts.masks.get(kind)
            title = "  ".join(filter(None, (order.title, result["size_text"], result["seconds_text"])))
            self._show(kind, result["mask"], order.title)
            state = facts.states[kind] = host.masks_state(kind)
            facts.masks[kind] = Computed(result["mask"], order.source, title, state)
            self._works.files.discard(old.told if old else None)
            self._forget_difference()
            self._keeping.keep_masks(kind)
            self._keeping.keep_comparison()
            self._next(rest, count)

        def failed() -> None:
            facts.coming = ("", "")
            if put_back is not None:
                put_back()

        self._works.step(
            State.SEGMENTING,
            "segment",
            "segment",
            order.params,
            known,
            with_volume=True,
            on_partial=partial,
            on_failed=failed,
            part=Part(order.title, count - len(orders), count),
        )

    def _show(self, kind: str, told: Mapping[str, Any], title: str, partial: bool = False) -> None:
        labels = {int(value): name for value, name in told["labels"].items()}
        offset = tuple(told.get("offset", (0, 0, 0)))
        masks = Masks(self._works.engine.path(told["array"]), labels, offset, title)
        self._works.host.show_masks(kind, masks, partial)

    # -- comparing

    def _pair(self) -> Told:
        """The masks as the engine takes them."""
        facts = self._facts
        told = {kind: {**facts.masks[kind].told, "edited": facts.edited(kind)} for kind in (FP32, QUANTIZED)}
        _scan, of, handle, *_how = facts.masks[QUANTIZED].source
        made_by = next((one for one in facts.made.values() if one.handle == handle), None)
        here = {"scan": facts.volume.digest, "calibrated_here": facts.calibrated_here(made_by)}
        return {**told, "of": of, "handle": handle, **here}

    def _scene(self) -> Told:
        """What the engine has to be handed of the scene: masks that it did not compute, or that are others now, too."""
        facts = self._facts
        anew = [k for k in (FP32, QUANTIZED) if "array" not in facts.masks[k].told or facts.edited(k)]
        return {"with_volume": True, "with_reference": bool(facts.reference), "with_masks": anew}

    def _compare(self, only_difference: bool = False) -> None:
        """All of it, or only the voxels of the difference: who looks at what was compared changes no result."""
        facts = self._facts
        self.look_at_states()
        about = facts.comparison_of

        def known(result: Told) -> None:
            if not same(about, facts.comparison_of):
                self._works.files.discard(result["difference"])
                return
            old, facts.difference = facts.difference, result["difference"]
            if not (only_difference and facts.is_compared):
                facts.table, facts.compared = table_of(result["table"]), about
                facts.worst = result["worst"]
                self._keeping.keep_comparison()
                self._measured()
            if facts.difference_shown:
                self._show_difference()
            self._works.files.discard(old)

        def failed() -> None:
            facts.difference_shown = bool(self._works.host.masks_state(DIFFERENCE))

        self._works.step(State.COMPARING, "compare", "compare", self._pair(), known, on_failed=failed, **self._scene())

    def look_at_states(self) -> bool:
        """See in what state masks and reference are now; whether that is another one."""
        facts, host = self._facts, self._works.host
        before, facts.states = facts.states, {kind: host.masks_state(kind) for kind in (FP32, QUANTIZED)}
        facts.states[REFERENCE] = host.reference_state() if facts.reference else ""
        for kind in (FP32, QUANTIZED):
            if kind in facts.masks and not facts.states[kind]:
                del facts.masks[kind]  # somebody has removed them
        return facts.states != before

    def turn_difference(self) -> None:
        """Show the difference, or take it away."""
        facts = self._facts
        if not self._works.can("difference"):
            return
        if not facts.difference_shown and not self._has_difference:
            # The masks come from a saved scene, or were edited: compared now, it is shown as soon as it is known.
            if self._works.can("compare"):
                facts.difference_shown = True
                self._works.begin("compare", lambda: self._compare(only_difference=facts.is_compared))
            return
        facts.difference_shown = not facts.difference_shown
        if facts.difference_shown:
            self._show_difference()
        else:
            self._works.host.remove_masks(DIFFERENCE)
        self._works.update()

    @property
    def _has_difference(self) -> bool:
        """Whether the difference of the masks as they are is at hand."""
        return self._facts.is_compared and bool(self._facts.difference) and "array" in self._facts.difference

    def _show_difference(self) -> None:
        """As a segmentation of its own."""
        if self._facts.difference and "array" in self._facts.difference:
            self._show(DIFFERENCE, self._facts.difference, m._("Difference"))

    def _forget_difference(self) -> None:
        """It belongs to other masks."""
        if self._facts.difference_shown:
            self._works.host.remove_masks(DIFFERENCE)
        self._works.files.discard(self._facts.difference)
        self._facts.difference, self._facts.difference_shown = None, False
        self._facts.table = self._facts.worst = None
