"""Activations in one picture: where the arithmetic goes, how peaked the channels are, where the outliers lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from medquant.evaluation.activations import ActivationStudy, SmoothedLayer
from medquant.evaluation.scene import FP32_COLOR, QUANTIZED_COLOR
from medquant.files import atomic_path

_TEXT, _QUIET, _LINE = "#1C2024", "#6B7480", "#D5DAE0"
_KINDS = {"convolution": "#3E7CB1", "linear": "#81A4CD", "attention": "#F2A33A", "other": "#B0B7BF"}


def activation_figure(path: str | Path, study: ActivationStudy) -> Path:
    """Write the picture; the suffix (.png, .svg, .pdf) decides its kind. Raises `UserError` where it cannot be written.

    Above: GFLOPs by kind of operation (MedQuanBench, Fig. 1a). Middle: kurtosis of each layer's input within channels
    and across them (Fig. 1b). Below: the outliers of the most peaked layers, the slice with the largest; and one layer
    by channel and position before and after smoothing (Fig. 5).
    """
    maps = list(study.maps.items())
    heights = (0.5, 2.2, 2.4, 2.6) if study.smoothed is not None else (0.5, 2.2, 2.4)
    figure = Figure(figsize=(8.5, 1.25 * sum(heights)), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    _arithmetic(figure.add_subplot(grid[0]), study.flops)
    _kurtosis(figure.add_subplot(grid[1]), study)
    below = grid[2].subgridspec(1, max(1, len(maps)))
    for number, (name, places) in enumerate(maps):
        _map(figure.add_subplot(below[number]), name, places)
    if study.smoothed is not None:
        _smoothed(figure, grid[3], study.smoothed)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".").lower() or "png")
    return Path(path)


def _arithmetic(axes: Axes, flops: dict[str, int]) -> None:
    total, left = max(1, sum(flops.values())), 0.0
    for kind, count in sorted(flops.items(), key=lambda one: -one[1]):
        share = count / total
        axes.barh(0, share, left=left, color=_KINDS.get(kind, _KINDS["other"]), height=0.8)
        if share > 0.12:
            text = f"{kind} {count / 1e9:.3g} GFLOPs"
            axes.text(left + share / 2, 0, text, ha="center", va="center", fontsize=8, color=_TEXT)
        left += share
    axes.set(xlim=(0, 1), yticks=[], xticks=[])
    _title(axes, "Arithmetic of one pass")
    _bare(axes)


def _kurtosis(axes: Axes, study: ActivationStudy) -> None:
    places = np.arange(len(study.layers))
    axes.axhline(3, color=_LINE, linewidth=1, zorder=0)
    axes.text(len(places) - 0.5, 3, " normal", fontsize=7, color=_QUIET, va="center")
    drawn = (
        ("quantiles_within", -0.15, FP32_COLOR, "within channels: median, 10 to 90 % of the channels"),
        ("quantiles_across", 0.15, QUANTIZED_COLOR, "across channels, at one place: of the places"),
    )
    for name, aside, color, label in drawn:
        low, middle, high = np.maximum([getattr(layer, name) for layer in study.layers], 1.0).T
        axes.vlines(places + aside, low, high, color=color, linewidth=1.5, alpha=0.45)
        axes.plot(places + aside, middle, "o", color=color, markersize=3.5, label=label)
    axes.set(yscale="log", xlim=(-0.5, len(places) - 0.5), xticks=[])
    axes.tick_params(labelsize=7, colors=_QUIET)
    axes.legend(fontsize=7, frameon=False, loc="upper left", labelcolor=_TEXT)
    axes.set_xlabel("layers, in the order of the network", fontsize=8, color=_QUIET)
    _title(axes, "Kurtosis of the layers' inputs")
    _bare(axes)


def _map(axes: Axes, name: str, places: np.ndarray) -> None:
    """The plane (the last two axes) that has the largest outlier."""
    planes = places.reshape(-1, *places.shape[-2:]) if places.ndim > 2 else places.reshape(1, 1, -1)
    plane = planes[int(planes.reshape(len(planes), -1).max(1).argmax())]
    shown = axes.imshow(plane, cmap="magma", vmin=0, interpolation="nearest")
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=6, colors=_QUIET)
    bar.outline.set_visible(False)
    axes.set(xticks=[], yticks=[])
    _title(axes, name if len(name) <= 34 else f"…{name[-33:]}", size=7)
    axes.set_xlabel("largest distance from the mean,\nstandard deviations of a channel", fontsize=6, color=_QUIET)


def _smoothed(figure: Figure, place: SubplotSpec, layer: SmoothedLayer) -> None:
    """Absolute values by channel and position, each half on a scale of its own: what counts is how even it is."""
    pair = place.subgridspec(1, 2)
    named = layer.layer if len(layer.layer) <= 34 else f"…{layer.layer[-33:]}"
    halves = (
        (layer.before, f"{named}, as it is", layer.kurtosis_across),
        (layer.after, "smoothed, alpha 0.5", layer.smoothed_kurtosis_across),
    )
    for number, (values, title, across) in enumerate(halves):
        axes = figure.add_subplot(pair[number])
        shown = axes.imshow(values, cmap="magma", vmin=0, aspect="auto", interpolation="nearest")
        bar = figure.colorbar(shown, ax=axes, shrink=0.9)
        bar.ax.tick_params(labelsize=6, colors=_QUIET)
        bar.outline.set_visible(False)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel("positions", fontsize=7, color=_QUIET)
        kurtosis = f"kurtosis within channels {layer.kurtosis_within:.3g}"
        kurtosis += f", across {across:.3g}" if across else ""
        axes.set_xlabel(f"channels; {kurtosis}", fontsize=7, color=_QUIET)
        _title(axes, title, size=7)


def _title(axes: Axes, text: str, size: float = 9) -> None:
    axes.set_title(text, loc="left", fontsize=size, color=_TEXT)


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
