"""Tables in the terminal: the same words and digits as in the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from medquant.evaluation import wording
from medquant.evaluation.comparison import Comparison, ModelSummary

if TYPE_CHECKING:
    from medquant.evaluation.activations import ActivationStudy
    from medquant.evaluation.rewrite_study import RewriteStudy
    from medquant.sensitivity.change import Change
    from medquant.sensitivity.effects import SensitivityMap
    from medquant.sensitivity.trials import Rounding

REFERENCE = {"one-at-a-time": "ref. lost", "incremental": "ref. won"}
"""What a layer's effect on the Dice against a reference is called, by view."""
LEAST_NAME = 30
"""Characters of a layer's name that a line of a table has room for."""


def plain_table(*titles: str, text: int = 1) -> Table:
    """A table whose first `text` columns are words, which may be folded, and the others numbers, which may not."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for number, title in enumerate(titles):
        if number < text:
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right", no_wrap=True)
    return table


def models_table(models: Sequence[ModelSummary], *, has_reference: bool) -> Table:
    """One line for each model, FP32 first; the smallest model whose masks are as FP32 in bold.

    Columns that no model has a figure for are left out.
    """
    columns: dict[str, Callable[[ModelSummary], str]] = {
        "size": wording.model_size,
        "bits/\nweight": lambda m: wording.bits(m.effective_bits),
        "Dice\nFP32": lambda m: wording.score(m.dsc_vs_fp32),
    }
    if has_reference:
        columns["Dice\nref."] = lambda m: wording.score(m.dsc_vs_reference)
        columns["NSD\nref."] = lambda m: wording.score(m.nsd_vs_reference)
    columns["time"] = lambda m: wording.seconds(m.seconds)
    columns["process\nmemory"] = lambda m: wording.memory(m.peak_memory_mb)
    columns["computed\nby"] = wording.computed
    shown = {
        title: cells
        for title, show in columns.items()
        if set(cells := [show(model) for model in models]) != {wording.NOTHING}
    }
    table = plain_table("model", *shown, "")
    table.columns[0].no_wrap = True
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False  # the one to break in a narrow terminal
    best, names = wording.smallest_as_fp32(models[1:]), wording.short_names(models)
    for row, model in enumerate(models):
        verdict = escape(wording.judged(model)) if row else ""
        table.add_row(
            escape(names[model.name]),
            *(cells[row] for cells in shown.values()),
            verdict,
            style="bold" if model is best else None,
        )
    return table


def structures_table(comparison: Comparison) -> Table:
    """One line for each structure and model."""
    reference = ("Dice\nref.", "NSD\nref.") if comparison.has_reference else ()
    titles = ("Dice\nFP32", "NSD\nFP32", "HD95\nmm", *reference, "volume\nmL", "change\nmL")
    table = plain_table("structure", "model", *titles)
    table.columns[1].justify = "left"
    for structure in comparison.structures:
        shown = escape(structure)
        for row in comparison.rows:
            if row.structure != structure:
                continue
            against = (wording.score(row.dsc_vs_reference), wording.score(row.nsd_vs_reference))
            first = row.model == comparison.summary[0].name
            table.add_row(
                shown,
                escape(row.model),
                wording.score(row.dsc_vs_fp32),
                wording.score(row.nsd_vs_fp32),
                wording.distance(row.hd95_mm_vs_fp32),
                *(against if comparison.has_reference else ()),
                wording.volume(row.volume_ml),
                wording.NOTHING if first else wording.change(row.volume_change_ml),
            )
            shown = ""
    return table


def layers_tables(found: SensitivityMap, view: str, console: Console) -> list[Table]:
    """One table, or where names of layers would be folded to shreds in it, one for each way of rounding."""
    whole = _layers_table(found, view, found.roundings)
    longest = max(map(len, found.layers))
    unbounded = console.options.update(max_width=10_000)
    numbers = Measurement.get(console, unbounded, whole).maximum - longest
    if console.width - numbers >= min(longest, LEAST_NAME):
        return [whole]
    return [_layers_table(found, view, (rounding,)) for rounding in found.roundings]


def _layers_table(found: SensitivityMap, view: str, roundings: Sequence[Rounding]) -> Table:
    """One line for each layer: its part of the weights, and for each way of rounding the effect and the Dice; against a
    reference what the layer costs of FP32's Dice, or where it is given back, what that gains."""
    titles, against_reference = [], found.fp32_vs_reference is not None
    for rounding in roundings:
        titles += [f"{rounding.label}\neffect"] + ([] if view == "proxy" else [f"{rounding.label}\nDice"])
        titles += [f"{rounding.label}\n{REFERENCE[view]}"] if view != "proxy" and against_reference else []
    table = plain_table("layer", "share", *titles)
    columns = [found.column(rounding, view) for rounding in roundings]
    worst = set(found.worst())
    for layer in found.layers:
        cells = [column[layer] for column in columns]
        values = []
        for cell in cells:
            values.append(wording.percent(cell.effect))
            if cell.change is not None:
                values.append(wording.score(cell.change.dsc))
                values += [wording.difference(cell.reference_loss)] if against_reference else []
        table.add_row(escape(layer), f"{cells[0].share:.1%}", *values, style="bold" if layer in worst else None)
    return table


def types_table(found: SensitivityMap) -> Table:
    """What giving back all layers of a type is worth, for each way of rounding: the Dice before and after, against FP32
    and where there is one, against the reference."""
    against_reference = found.fp32_vs_reference is not None
    labels = [rounding.label for rounding in found.roundings]
    titles = [f"{one}\n{told}" for one in labels for told in ("Dice", "ref.")[: 1 + against_reference]]
    table = plain_table("type", "share", *titles)

    def scores(changes: Iterable[Change]) -> list[str]:
        pairs = [(one.dsc, one.dsc_vs_reference)[: 1 + against_reference] for one in changes]
        return [wording.score(value) for pair in pairs for value in pair]

    before = dict(found.whole)
    table.add_row("none given back", "", *scores(before[r] for r in found.roundings))
    for kind in dict.fromkeys(effect.layer for effect in found.types):
        cells = {effect.rounding: effect for effect in found.types if effect.layer == kind}
        share = f"{next(iter(cells.values())).share:.1%}"
        table.add_row(kind, share, *scores(cells[r].change for r in found.roundings))
    return table


def activations_table(study: ActivationStudy) -> Table:
    """One line for each layer's input; a star for what a segmentation never runs."""
    titles = ("range", "deviation", "outliers\n%", "kurtosis\nwithin", "kurtosis\nacross", "smoothing\nratio")
    table = plain_table("layer", *titles)
    for layer in study.layers:
        table.add_row(
            escape(layer.layer) + ("" if layer.segmenting else " *"),
            f"{layer.minimum:.3g} to {layer.maximum:.3g}",
            f"{layer.deviation:.3g}",
            wording.percent(layer.outliers),
            *("" if math.isnan(value) else f"{value:.1f}" for value in (layer.kurtosis_within, layer.kurtosis_across)),
            f"{layer.smoothed_ratio:.2f}",
        )
    return table


def rewritten_layer_table(study: RewriteStudy, layer: str) -> Table:
    """One line for each rewrite of a layer rounded alone: the error of its own output, of the network's, the Dice."""
    table = plain_table("rewrite", "own output's\nerror", "network's\nerror", "Dice\nFP32", "what was done")
    table.columns[0].no_wrap = True
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    for variant, one in study.of(layer).items():
        errors = (wording.percent(one.output_error), wording.percent(one.change.error))
        table.add_row(variant, *errors, wording.score(one.change.dsc), escape(one.done))
    return table


def rewritten_table(study: RewriteStudy) -> Table:
    """One line for each rewrite of the whole network: of the layer that rounding harms most, and of all layers."""
    one_layer = study.whole(study.layers[0])
    titles = ("Dice,\nthat layer", "Dice,\nall layers", "error,\nall layers", "bits/weight,\nall layers")
    table = plain_table("rewrite", *titles)
    table.columns[0].no_wrap = True
    for variant, one in study.whole().items():
        that = wording.score(one_layer[variant].change.dsc) if variant in one_layer else ""
        table.add_row(
            variant,
            that,
            wording.score(one.change.dsc),
            wording.percent(one.change.error),
            wording.bits(one.effective_bits),
        )
    return table
