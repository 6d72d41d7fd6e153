"""What the views of the layers are called, and what their numbers mean."""

from __future__ import annotations

from dataclasses import dataclass

from MedQuantSlicerLib.messages import _


@dataclass(frozen=True)
class ViewWords:
    """Of one view."""

    name: str
    lead: str
    """What it answers."""
    legend: str
    """What its numbers are."""
    effects: str
    """What it found of one layer."""
    against: str = ""
    """What it found of one layer against a reference."""


OF_VIEW = {
    "proxy": ViewWords(
        name=_("the quick estimate"),
        lead=_("Which layers suffer when they become integers: a quick estimate from what each of them computes."),
        legend=_("Quick estimate: the layer's own output changes by"),
        effects=_("Its own output changes by {effects}"),
    ),
    "one-at-a-time": ViewWords(
        name=_("one at a time"),
        lead=_("Which layers suffer when they become integers: each is rounded alone, and the masks compared."),
        legend=_("Masks: Dice against FP32 falls by"),
        effects=_("Dice against FP32 with it alone rounded: {effects}"),
        against=_("Against the reference it costs {effects}"),
    ),
    "incremental": ViewWords(
        name=_("one spared at a time"),
        lead=_("Which layers suffer when they become integers: one at a time is spared, and the masks compared."),
        legend=_("Masks: Dice gained by sparing the layer"),
        effects=_("Dice against FP32 with it spared and all others rounded: {effects}"),
        against=_("Against the reference sparing it gains {effects}"),
    ),
}
