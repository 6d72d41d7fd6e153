"""The map of sensitivities as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from medquant.evaluation import wording
from medquant.evaluation.effect_colors import ANCHORS, FLOOR, depth, is_dark
from medquant.evaluation.pictures import save_picture
from medquant.sensitivity.effects import LayerEffect, SensitivityMap

_MAP = LinearSegmentedColormap.from_list("effect", list(ANCHORS))
_TEXT, _QUIET = "#1C2024", "#6B7480"
_ROW, _COLUMN, _LEFT, _BAR = 0.2, 0.85, 3.4, 0.13
_WORST = 5
_DPI = 150


def sensitivity_figure(path: str | Path, found: SensitivityMap) -> Path:
    """Write the map: layers in the order of the network by what is rounded, a panel for each view.

    A cell has its effect in per cent, white for none; the five worst layers stand in bold. Where types of layers were
    given back, bars below have the Dice that each gains, as in MedQuanBench's Fig. 3. The file's suffix (.png, .svg,
    .pdf) decides its kind. Raises `UserError` where it cannot be written.
    """
    views = list(dict.fromkeys(cell.view for cell in found.cells))
    rows, columns = len(found.layers), len(found.roundings)
    kinds = list(dict.fromkeys(one.layer for one in found.types))
    margin = max(_LEFT, _widest([*found.layers, *kinds]) + 0.15)
    width = margin + len(views) * (columns * _COLUMN + 0.5)
    below = len(kinds) * (columns * _BAR + 0.12) + 0.9 if kinds else 0.0
    figure = Figure(figsize=(width, rows * _ROW + 1.3 + below), dpi=_DPI, facecolor="white")
    worst = set(found.worst(_WORST))
    for number, view in enumerate(views):
        left = (margin + number * (columns * _COLUMN + 0.5)) / width
        height = rows * _ROW / figure.get_figheight()
        bottom = (0.35 + below) / figure.get_figheight()
        axes = figure.add_axes((left, bottom, columns * _COLUMN / width, height))
        by_layer = [found.column(rounding, view) for rounding in found.roundings]
        effects = [[_effect(column.get(layer)) for column in by_layer] for layer in found.layers]
        known = [value for line in effects for value in line if math.isfinite(value)]
        most = max([FLOOR, *known])
        shares = [[depth(value, most) for value in line] for line in effects]
        axes.imshow(shares, cmap=_MAP, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for y, line in enumerate(effects):
            for x, value in enumerate(line):
                color = "#FFFFFF" if is_dark(value, most) else _TEXT
                axes.text(x, y, wording.percent(value), ha="center", va="center", fontsize=7, color=color)
        axes.set_title(view, loc="left", fontsize=9, color=_TEXT, pad=16)
        axes.set_xticks(range(columns), [r.label for r in found.roundings], fontsize=8, color=_TEXT)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, pad=2)
        axes.set_yticks(range(rows), found.layers if number == 0 else [""] * rows, fontsize=7, color=_QUIET)
        for label in axes.get_yticklabels():
            if label.get_text() in worst:
                label.set(weight="bold", color=_TEXT)
        for edge in axes.spines.values():
            edge.set_visible(False)
    if kinds:
        place = margin, 0.75, max(columns * _COLUMN, width - margin - 0.9), below - 0.9
        wide, high = figure.get_size_inches()
        _bars(figure.add_axes((place[0] / wide, place[1] / high, place[2] / wide, place[3] / high)), found, kinds)
    below_all = "Relative change of the output, per cent. Darker: more; bold: most. Not for clinical use."
    figure.text(0.01, 0.06 / figure.get_figheight(), below_all, fontsize=7, color=_QUIET)
    return save_picture(figure, path)


def _bars(axes: Axes, found: SensitivityMap, kinds: Sequence[str]) -> None:
    """The Dice against FP32 that giving back each type of layers gains, a bar for each way of rounding."""
    gains = {(one.layer, one.rounding): one.dsc_loss or 0.0 for one in found.types}
    high = 0.86 / len(found.roundings)
    for number, rounding in enumerate(found.roundings):
        values = [gains.get((kind, rounding), 0.0) for kind in kinds]
        places = [row + (number - (len(found.roundings) - 1) / 2) * high for row in range(len(kinds))]
        color = _MAP(0.85 - 0.6 * number / max(1, len(found.roundings) - 1))
        axes.barh(places, values, height=0.85 * high, color=color, label=rounding.label)
        for place, value in zip(places, values, strict=True):
            told, side = wording.difference(value), 3 if value >= 0 else -3
            how = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": _TEXT}
            axes.annotate(told, (value, place), (side, 0), ha="left" if value >= 0 else "right", **how)
    axes.margins(x=0.12)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=7, color=_QUIET)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.axvline(0, color=_QUIET, linewidth=0.6)
    title = "All layers of one type given back, the others rounded: Dice against FP32 gained"
    axes.set_title(title, loc="left", x=0, fontsize=8, color=_TEXT, pad=4)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.02), ncols=8, fontsize=7, frameon=False, labelcolor=_TEXT)
    for edge in axes.spines.values():
        edge.set_visible(False)


def _widest(layers: Sequence[str]) -> float:
    """Inches that the longest name takes where it stands in bold."""
    renderer = FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()
    font = FontProperties(size=7, weight="bold")
    return max(renderer.get_text_width_height_descent(layer, font, False)[0] for layer in layers) / _DPI


def _effect(cell: LayerEffect | None) -> float:
    return float("nan") if cell is None else cell.effect
