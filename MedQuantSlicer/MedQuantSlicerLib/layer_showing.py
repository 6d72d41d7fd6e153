"""The layers as the panel shows them: the heatmap of a view, and the layer that was clicked."""

from __future__ import annotations

from dataclasses import replace

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.facts import Facts
from MedQuantSlicerLib.layer_facts import MapKind
from MedQuantSlicerLib.layer_state import HeatCell, HeatLayer, Heatmap, LayerLine, TypeCell
from MedQuantSlicerLib.layer_words import OF_VIEW
from MedQuantSlicerLib.state import State

TIMES, NO_BREAK = "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"
WORST = 5
QUICK = "proxy"


def block_of(layer: str) -> str:
    """The block that a layer belongs to: its name up to the last number, or else its parent."""
    words = layer.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdigit()]
    return ".".join(words[: numbers[0] + 1] if numbers else words[:-1])


def chosen_heat(facts: Facts) -> MapKind | None:
    """The map of the chosen model that is shown: the chosen one or, while one is being measured, that one, and the
    quick estimate until it has something. None where there is nothing to show."""
    options, heats = facts.options, facts.sensitivity.heats
    wanted, kinds = MapKind(options.view, options.what, options.granularity), []
    if facts.state is State.MEASURING and facts.measuring is not None:
        wanted = facts.measuring
        kinds = [wanted._replace(view=QUICK)]
    return next((kind for kind in (wanted, *kinds) if kind in heats and heats[kind].cells), None)


def heatmap_of(facts: Facts) -> Heatmap | None:
    """The map that is shown."""
    kind = chosen_heat(facts)
    if kind is None:
        return None
    known = facts.sensitivity
    heat = known.heats[kind]
    cells = tuple(heat.cells.values())
    bits = tuple(sorted({cell.bits for cell in cells}, reverse=True))
    fewest = sorted((cell for cell in cells if cell.bits == bits[-1]), key=lambda cell: (-cell.harm, -cell.effect))
    precise = facts.quantized.precise if facts.safe and facts.quantized is not None else ()
    layers = tuple(
        replace(one, kept=facts.wishes.get(one.name), precise=one.name in precise) for one in known.layers.values()
    )
    worst = tuple(cell.layer for cell in fewest[:WORST])
    known = heat.fp32_vs_reference
    against = "" if known is None else m.against(heat.reference, known)
    told = heat.complete, kind.view, kind.what, _agreement(facts, kind), against, _types(heat.types, bits, kind)
    return Heatmap(layers, bits, cells, worst, *told)


def _types(types: tuple[TypeCell, ...], bits: tuple[int, ...], kind: MapKind) -> Heatmap | None:
    if not types:
        return None
    layers = {one.layer: HeatLayer(one.layer, "", "", (), one.share) for one in types}
    return Heatmap(tuple(layers.values()), bits, types, (), True, kind.view, kind.what)


def layer_of(facts: Facts) -> LayerLine | None:
    """The layer that was clicked."""
    known, kind = facts.sensitivity, chosen_heat(facts)
    layer = known.layers.get(facts.layer)
    if layer is None or kind is None:
        return None
    cells = sorted((one for one in known.heats[kind].cells.values() if one.layer == layer.name), key=lambda c: -c.bits)
    shape = f"{NO_BREAK}{TIMES}{NO_BREAK}".join(str(n) for n in layer.shape)
    kept = facts.wishes.get(layer.name)
    text = m.layer(layer.name, layer.kind, shape, m.percent(layer.share))
    if cells:
        told = ", ".join(m.at_bits(_effect(cell), cell.bits) for cell in cells)
        text = f"{text} {OF_VIEW[kind.view].effects.format(effects=told)}"
        losses = [
            m.at_bits(m.difference(cell.reference_loss), cell.bits) for cell in cells if cell.reference_loss is not None
        ]
        text += f". {OF_VIEW[kind.view].against.format(effects=', '.join(losses))}" if losses else ""
    weights, inputs = known.histograms.get(layer.name, (None, None))
    return LayerLine(layer.name, text if kept is None else f"{text}; {m.kept_at(kept)}", kept, weights, inputs)


def _effect(cell: HeatCell) -> str:
    return m.percent(cell.effect) if cell.dsc is None else m.score(cell.dsc)


def _agreement(facts: Facts, kind: MapKind) -> tuple[str, ...]:
    view, known = kind.view, facts.sensitivity
    others: dict[str, list[str]] = {}
    for one in sorted(known.agreements, key=lambda one: one.bits):
        if known.heats[kind].complete and one.is_about(kind) and one.views[0] != one.views[1]:
            other = one.views[0] if one.views[1] == view else one.views[1]
            others.setdefault(other, []).append(m.at_bits(m.correlation(one.spearman), one.bits))
    return tuple(
        m.agreement(OF_VIEW[other].name, ", ".join(told)) for other, told in others.items() if other in OF_VIEW
    )
