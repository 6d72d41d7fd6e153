"""Activations in one picture: where the arithmetic goes, how values are spread, where the outliers lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import NullLocator

from medquant.evaluation.activations import OUTLIER, ActivationStudy, LayerActivations
from medquant.evaluation.outlier_maps import OutlierMap
from medquant.evaluation.pictures import save_picture
from medquant.evaluation.scene import FP32_COLOR, QUANTIZED_COLOR
from medquant.evaluation.smoothed_layer import SmoothedLayer

_TEXT, _QUIET, _LINE = "#1C2024", "#6B7480", "#D5DAE0"
NAMED = 5
"""Layers of the highest kurtosis whose names are written."""
_KINDS = {"convolution": "#3E7CB1", "linear": "#81A4CD", "attention": "#F2A33A", "other": "#B0B7BF"}


def activation_figure(path: str | Path, study: ActivationStudy) -> Path:
    """Write the picture; the suffix (.png, .svg, .pdf) decides its kind. Raises `UserError` where it cannot be written.

    From above: GFLOPs by kind of operation (MedQuanBench, Fig. 1a); how the values of each layer's input are
    distributed, and their kurtosis within channels and across them (Fig. 1b); the outliers of the most peaked layers on
    the slice of the input that has the largest; one layer by channel and position before and after smoothing (Fig. 5).
    """
    heights = [0.5, 2.2, 2.4]
    heights += [2.6] if study.maps else []
    heights += [2.6] if study.smoothed is not None else []
    figure = Figure(figsize=(8.5, 1.25 * sum(heights)), dpi=150, facecolor="white", layout="constrained")
    grid = iter(figure.add_gridspec(len(heights), 1, height_ratios=heights))
    _arithmetic(figure.add_subplot(next(grid)), study.flops)
    _distributions(figure.add_subplot(next(grid)), study.drawn)
    _kurtosis(figure.add_subplot(next(grid)), study.drawn)
    if study.maps:
        below = next(grid).subgridspec(1, len(study.maps))
        for number, one in enumerate(study.maps):
            _map(figure.add_subplot(below[number]), one, study.picture)
    if study.smoothed is not None:
        _smoothed(figure, next(grid), study.smoothed)
    return save_picture(figure, path)


def _arithmetic(axes: Axes, flops: dict[str, int]) -> None:
    total, left = max(1, sum(flops.values())), 0.0
    parts = sorted(flops.items(), key=lambda one: -one[1])
    for kind, count in parts:
        share = count / total
        axes.barh(0, share, left=left, color=_KINDS.get(kind, _KINDS["other"]), height=0.8)
        if share > 0.12:
            text = "#FFFFFF" if kind == "convolution" else _TEXT
            axes.text(left + share / 2, 0, f"{kind} {share:.0%}", ha="center", va="center", fontsize=8, color=text)
        left += share
    axes.set(xlim=(0, 1), yticks=[], xticks=[])
    _title(axes, "GFLOPs of one pass: " + ", ".join(f"{kind} {count / 1e9:.3g}" for kind, count in parts))
    _bare(axes)


def _distributions(axes: Axes, layers: Sequence[LayerActivations]) -> None:
    """A column for each layer: how many of its values lie where, in its standard deviations from its mean."""
    shares = [np.array(layer.histogram) / sum(layer.histogram) for layer in layers]
    colors = LogNorm(min(share[share > 0].min() for share in shares), 1.0)
    furthest, shown = 1.0, None
    for place, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        if layer.deviation > 0:
            edges = np.linspace(layer.minimum, layer.maximum, len(share) + 1)
            edges = (edges - layer.mean) / layer.deviation
            furthest = max(furthest, *np.abs(edges[[0, -1]]))
            column = np.where(share > 0, share, np.nan)[:, None]
            sides = (place - 0.45, place + 0.45)
            shown = axes.pcolormesh(sides, edges, column, cmap="YlGnBu", norm=colors, rasterized=True)
    axes.set_yscale("symlog", linthresh=3, linscale=1.5)
    furthest *= 1.2
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000) if tick <= furthest]
    ticks = [-tick for tick in ticks[::-1]] + [0] + ticks
    axes.set_yticks(ticks, [f"{tick:d}" for tick in ticks])
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(-furthest, furthest), xticks=[])
    axes.tick_params(labelsize=7, colors=_QUIET)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("deviations from the mean", fontsize=7, color=_QUIET)
    if shown is not None:
        _bar(axes, shown, "share of the values")
    _title(axes, "Distribution of the layers' inputs")
    _bare(axes)


def _kurtosis(axes: Axes, layers: Sequence[LayerActivations]) -> None:
    places = np.arange(len(layers))
    axes.axhline(3, color=_LINE, linewidth=1, zorder=0)
    axes.annotate(
        "normal", (1, 3), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
        fontsize=7, color=_QUIET, va="center",
    )  # fmt: skip
    drawn = (
        ("quantiles_within", -0.15, FP32_COLOR, "within channels: median, 10 to 90 % of the channels"),
        ("quantiles_across", 0.15, QUANTIZED_COLOR, "across channels, at one place: of the places"),
    )
    for name, aside, color, label in drawn:
        low, middle, high = np.array([getattr(layer, name) for layer in layers]).T
        axes.vlines(places + aside, low, high, color=color, linewidth=1.5, alpha=0.45)
        axes.plot(places + aside, middle, "o", color=color, markersize=3.5, label=label)
    peaks = np.nan_to_num([layer.quantiles_within[1] for layer in layers])
    named = [place for place in peaks.argsort()[::-1][:NAMED] if peaks[place] > 0]
    axes.set_xticks(sorted(named), [_short(layers[place].layer, 26) for place in sorted(named)])
    axes.set(yscale="log", xlim=(-0.5, len(places) - 0.5))
    low, high = axes.get_ylim()
    ticks = [one * ten for ten in (1, 10, 100, 1000, 10000) for one in (1, 2, 5) if low <= one * ten <= high]
    axes.set_yticks(ticks, [f"{tick:d}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=7, colors=_QUIET, length=2)
    for label in axes.get_xticklabels():
        label.set(rotation=35, ha="right", rotation_mode="anchor", fontsize=6)
    axes.legend(
        fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.97), ncols=2, labelcolor=_TEXT,
        borderaxespad=0, handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip
    _title(axes, "Kurtosis")
    _bare(axes)


def _map(axes: Axes, found: OutlierMap, picture: np.ndarray) -> None:
    """The outliers over the slice of the input in which the largest lies."""
    values, shown = found.values, picture
    if values.ndim == 3 and picture.ndim == 3:
        plane = int(np.unravel_index(np.nanargmax(values), values.shape)[0])
        values, shown = values[plane], _slice_of(picture, found.cells[0], plane)
    rows, columns = shown.shape
    low, high = np.percentile(shown, (1, 99))
    axes.imshow(shown, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    most = float(np.nanmax(values))
    least = min(OUTLIER, 0.7 * most)
    drawn = axes.imshow(
        values, cmap="autumn_r", vmin=least, vmax=most, alpha=np.where(values > least, 0.75, 0.0),
        interpolation="nearest", extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )  # fmt: skip
    _bar(axes, ScalarMappable(drawn.norm, drawn.cmap), "standard deviations").ax.tick_params(labelsize=6)
    axes.set(xticks=[], yticks=[], aspect="equal")
    _title(axes, _short(found.layer), size=7)
    at = ", ".join(f"{place:.0f}" for place in found.at)
    axes.set_xlabel(f"outliers, the largest at ({at}) of the input", fontsize=6, color=_QUIET)


def _slice_of(picture: np.ndarray, cells: np.ndarray, plane: int) -> np.ndarray:
    """Of the slices that a plane of cells spans, the one that shows most."""
    half = np.diff(cells).min() / 2 if len(cells) > 1 else len(picture)
    first, last = (int(np.clip(round(cells[plane] + side), 0, len(picture))) for side in (-half, half))
    slices = picture[min(first, len(picture) - 1) : max(first + 1, last)]
    return slices[int(slices.reshape(len(slices), -1).std(1).argmax())]


def _smoothed(figure: Figure, place: SubplotSpec, layer: SmoothedLayer) -> None:
    """Absolute values by channel and position, each half on a scale of its own: what counts is how even it is."""
    pair = place.subgridspec(1, 2)
    named = _short(layer.layer)
    halves = (
        (layer.before, f"{named}, as it is", layer.kurtosis_across),
        (layer.after, "smoothed, alpha 0.5", layer.smoothed_kurtosis_across),
    )
    for number, (values, title, across) in enumerate(halves):
        axes = figure.add_subplot(pair[number])
        shown = axes.imshow(values, cmap="magma", vmin=0, aspect="auto", interpolation="nearest")
        _bar(axes, shown, "").ax.tick_params(labelsize=6)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel("positions", fontsize=7, color=_QUIET)
        kurtosis = f"kurtosis within channels {layer.kurtosis_within:.3g}"
        kurtosis += "" if np.isnan(across) else f", across {across:.3g}"
        axes.set_xlabel(f"channels; {kurtosis}", fontsize=7, color=_QUIET)
        _title(axes, title, size=7)


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _bar(axes: Axes, shown: ScalarMappable, label: str) -> Colorbar:
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.9, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=_QUIET)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=6, color=_QUIET)
    return bar


def _title(axes: Axes, text: str, size: float = 9) -> None:
    axes.set_title(text, loc="left", fontsize=size, color=_TEXT)


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
