"""The path down the panel: what is done folds to a line that says what was chosen, what comes next is open and in
sight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from MedQuantSlicerLib.actions import STATE_OF
from MedQuantSlicerLib.messages import _, of_model
from MedQuantSlicerLib.state import SECTIONS, Shown, State

SETTLE_MS = 30
FOLDED_BY_RESULT = ("scan", "model", "segment")
"""What a comparison makes room for. The bits stay: they are what is tried next."""
STEPS = {
    "add_weights": ("model", "addWeightsButton"),
    "download": ("model", "downloadButton"),
    "quantize": ("quantize", "quantizeButton"),
    "find_safe": ("quantize", "safeButton"),
    "place_box": ("segment", "placeBoxButton"),
    "segment": ("segment", "segmentButton"),
    "compare": ("compare", "compareButton"),
    "jump_to_worst": ("compare", "worstButton"),
    "difference": ("compare", "differenceButton"),
}
"""Section and button of each verb that can be the next step."""


class SectionPath:
    """`opened()` is called when the user has opened a section: what changed meanwhile is to be shown."""

    def __init__(self, ui: Any, opened: Callable[[], None]) -> None:
        self._ui = ui
        self._sections = {name: getattr(ui, f"{name}Section") for name in SECTIONS}
        self._titles = {name: section.text for name, section in self._sections.items()}
        self._folding = False
        self._seen: tuple[Any, Any, str, State] = (None, None, "", State.NO_VOLUME)
        self._wishes: tuple[Any, ...] = ()
        for name, section in self._sections.items():
            section.contentsCollapsed.connect(self._toggled(name, opened))

    def follow(self, shown: Shown) -> None:
        """Fold, open and scroll as what is shown now asks for; only after a change: the user has the last word.

        Who measures, exports or writes a report stays there: the next step is what it was before. So does who wishes
        something for a layer, and may wish more. Where the next step itself was begun and cancelled, its button is what
        comes next once more.
        """
        table, problem, step, state = self._seen
        next_step = next((verb for verb in STEPS if verb in shown.actions and shown.actions[verb].primary), "")
        wished, self._wishes = shown.overrides != self._wishes, shown.overrides
        resting = "" if shown.waiting is None else step
        self._seen = (shown.table, shown.problem, next_step or resting, shown.state)
        was_stopped = bool(next_step) and state is STATE_OF.get(next_step)
        if shown.table is not None and shown.table is not table:
            self._fold(FOLDED_BY_RESULT, True)
            self._fold(("compare",), False)
            self._bring("compare", self._ui.costTable)
        elif shown.table is None and table is not None:
            self._fold(FOLDED_BY_RESULT, False)
        elif next_step and (next_step != step or was_stopped) and not wished:
            section, button = STEPS[next_step]
            self._fold((section,), False)
            self._bring(section, getattr(self._ui, button))
        measured = state is State.MEASURING and shown.state is not State.MEASURING
        if measured and shown.heatmap is not None and shown.heatmap.complete:
            self._bring("layers", self._sections["layers"])
        if shown.problem is not None and shown.problem is not problem:
            self._fold((shown.problem.section,), False)
            self._bring(shown.problem.section, getattr(self._ui, f"{shown.problem.section}Messages"))
        for name, section in self._sections.items():
            chosen = chosen_in(name, shown) if section.collapsed else ""
            title = f"{self._titles[name]}: {chosen}" if chosen else self._titles[name]
            if section.text != title:
                section.text = title

    def _fold(self, names: tuple[str, ...], folded: bool) -> None:
        self._folding = True
        for name in names:
            if self._sections[name].collapsed != folded:
                self._sections[name].collapsed = folded
        self._folding = False

    def _toggled(self, name: str, opened: Callable[[], None]) -> Callable[..., None]:
        def toggled(*_: Any) -> None:
            if self._folding:
                return
            opened()
            if not self._sections[name].collapsed:
                self._bring(name, self._sections[name])

        return toggled

    def _bring(self, name: str, widget: Any) -> None:
        # The layout learns only after this of what was shown and folded just now, level by level.
        qt.QTimer.singleShot(SETTLE_MS, lambda: bring(list(self._sections.values()), self._sections[name], widget))


def bring(sections: list[Any], section: Any, widget: Any) -> None:
    """Scroll as little as it takes to see a widget of a section whole, with the head of some section at the top.

    Where there is no scroll area, all is in sight.
    """
    area = section.parent()
    while area is not None and not hasattr(area, "ensureWidgetVisible"):
        area = area.parent()
    if area is None:
        return
    page, bar = area.widget(), area.verticalScrollBar()
    if page.layout() is not None:
        page.layout().activate()
    high = area.viewport().height
    head = top_of(section, page)
    bottom = top_of(widget, page) + widget.height
    if bar.value <= head and bottom <= bar.value + high:
        return
    heads = [0, *(top_of(one, page) for one in sections)]
    bar.setValue(next((top for top in heads if top <= head and bottom <= top + high), head))


def top_of(widget: Any, page: Any) -> int:
    """Where a widget begins on the page that is scrolled."""
    return widget.mapTo(page, qt.QPoint(0, 0)).y()


def chosen_in(name: str, shown: Shown) -> str:
    """What a folded section says of what was chosen or found in it."""
    if name == "scan":
        return ", ".join(shown.scan.split(", ")[:2])
    if name == "model":
        return next((line.title for line in shown.models if line.spec == shown.model), "")
    if name == "quantize" and shown.safe:
        return _("smallest safe model")
    if name == "quantize":
        choice = next((one for one in shown.choices if one.chosen), None)
        return ", ".join(filter(None, (_("{bits}-bit").format(bits=choice.bits), choice.size))) if choice else ""
    if name == "segment":
        return shown.boxes if shown.needs_box else ""
    if name == "compare" and shown.table_of:
        return of_model(shown.table_of)
    if name == "compare":
        return shown.table.headline.partition(" (")[0] if shown.table is not None else ""  # where, has no room
    if name == "layers" and shown.heatmap is not None and shown.heatmap.complete and shown.heatmap.worst:
        return _("most sensitive {layer}").format(layer=shown.heatmap.worst[0].rpartition(".")[2])
    return ""
