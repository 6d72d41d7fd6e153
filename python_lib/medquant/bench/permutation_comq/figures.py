"""Figures 2 and 3 of Permutation-COMQ, drawn again from the simulation, one panel for each reading and width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medquant.bench.permutation_comq.readings import READINGS
from medquant.bench.permutation_comq.simulation import Drawn, SimulatedLayer
from medquant.evaluation.pictures import save_picture
from medquant.evaluation.scene import FP32_COLOR, QUANTIZED_COLOR

SUFFIXES = ("png", "svg")
PEER = ("comq", "none")
"""The paper's comparison: COMQ on the range of each column."""
_TEXT, _QUIET, _LINE = "#1C2024", "#6B7480", "#D5DAE0"
_ROW, _COLUMN, _LEFT, _TOP, _BOTTOM, _GAP = 1.15, 2.35, 2.15, 0.75, 0.75, 0.16
_LEAST, _MOST = 1e-4, 1e2
"""Ends of the axis of relative errors; what lies outside is drawn at its ends."""
_BINS = 14


def write_figures(folder: Path, layer: SimulatedLayer, drawn: Drawn) -> list[Path]:
    """`figure2` and `figure3` as PNG and SVG in `folder`. Raises `UserError` where they cannot be written."""
    figures = {"figure2": magnitudes(layer), "figure3": relative_errors(layer, drawn)}
    return [save_picture(drawing, folder / f"{name}.{end}") for name, drawing in figures.items() for end in SUFFIXES]


def magnitudes(layer: SimulatedLayer) -> Figure:
    """Figure 2: how the magnitudes of the simulated weights are distributed, on two scales of counts."""
    figure = Figure(figsize=(7.2, 2.9), dpi=150, facecolor="white", layout="constrained")
    weights = layer.weight.abs().reshape(-1).numpy()
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log")):
        axes.hist(weights, bins=60, color=FP32_COLOR)
        axes.set(yscale=scale, xlim=(0, None))
        axes.set_xlabel("magnitude of a weight", fontsize=8, color=_QUIET)
        axes.set_ylabel("weights" if scale == "linear" else "weights, logarithmic", fontsize=8, color=_QUIET)
        _plain(axes)
    figure.suptitle(
        f"Simulated weights: {np.mean(weights < 0.3):.0%} below 0.3, {np.mean(weights > 2):.1%} from 2 to "
        f"{weights.max():.1f}",
        x=0.01,
        ha="left",
        fontsize=9,
        color=_TEXT,
    )
    return figure


def relative_errors(layer: SimulatedLayer, drawn: Drawn) -> Figure:
    """Figure 3: |w - w_q| / |w| by |w|, a row for each reading, a column for each width.

    The clipping factor is searched but for COMQ on the whole range, whose median stands in every panel for comparison.
    """
    rows = [PEER] + [(name, "searched") for name in READINGS if (name, "searched") in {key[:2] for key in drawn}]
    widths = sorted({bits for _, _, bits in drawn}, reverse=True)
    width = _LEFT + len(widths) * _COLUMN + 0.15
    height = _TOP + len(rows) * _ROW + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    for y, (name, clipping) in enumerate(rows):
        bottom = height - _TOP - (y + 1) * _ROW
        for x, bits in enumerate(widths):
            box = (_LEFT + x * _COLUMN, bottom + _GAP, _COLUMN - _GAP, _ROW - _GAP)
            axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            reading = drawn[name, clipping, bits]
            _panel(axes, layer.weight, reading.values, drawn[(*PEER, bits)].values)
            told = (
                f"stored {reading.effective_bits(bits):.1f} bits, output error {layer.output_error(reading.values):.3f}"
            )
            axes.text(0.97, 0.95, told, transform=axes.transAxes, fontsize=6.5, color=_TEXT, ha="right", va="top")
            if y == 0:
                axes.set_title(f"{bits} bits", loc="left", fontsize=9, color=_TEXT, weight="bold")
            axes.tick_params(labelbottom=y == len(rows) - 1, labelleft=x == 0)
        title = READINGS[name].title.replace(", ", ",\n").replace(" with ", "\nwith ")
        title += "\non the whole range" if clipping == "none" else ""
        figure.text(0.1 / width, (bottom + _ROW / 2 + _GAP / 2) / height, title, fontsize=8, color=_TEXT, va="center")
    figure.text(
        0.1 / width,
        1 - 0.12 / height,
        "Relative error of the weights by their magnitude",
        fontsize=10,
        color=_TEXT,
        weight="bold",
        va="top",
    )
    _legend(figure)
    figure.text(
        (_LEFT + len(widths) * _COLUMN / 2) / width,
        (_BOTTOM - 0.33) / height,
        "magnitude of a weight",
        fontsize=8,
        color=_QUIET,
        ha="center",
    )
    return figure


def _panel(axes: Axes, weight: torch.Tensor, values: torch.Tensor, peer: torch.Tensor) -> None:
    size = weight.abs().reshape(-1).numpy().clip(2.1e-3)
    error = _relative(weight, values)
    axes.axhline(1, color=_LINE, linewidth=0.8, zorder=0)
    axes.scatter(size, error, s=1.2, color=QUANTIZED_COLOR, alpha=0.25, linewidths=0, rasterized=True)
    axes.plot(*_medians(size, _relative(weight, peer)), color=_QUIET, linewidth=1, linestyle=(0, (2, 1.5)))
    axes.plot(*_medians(size, error), color=_TEXT, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlim=(2e-3, 10), ylim=(_LEAST, _MOST))
    axes.set_xticks([1e-2, 1e-1, 1, 10], ["0.01", "0.1", "1", ""])
    axes.set_yticks([1e-4, 1e-2, 1, 1e2], ["0.01 %", "1 %", "100 %", ""])
    axes.minorticks_off()
    _plain(axes)


def _relative(weight: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    error = (values - weight).abs() / weight.abs()
    return error.reshape(-1).numpy().clip(_LEAST, _MOST)


def _medians(size: np.ndarray, error: np.ndarray) -> tuple[Sequence[float], Sequence[float]]:
    """The median error of equally many weights at a time, at the middle of their magnitudes."""
    parts = np.array_split(size.argsort(), _BINS)
    return [float(np.median(size[part])) for part in parts], [float(np.median(error[part])) for part in parts]


def _legend(figure: Figure) -> None:
    handles = (
        Line2D([], [], color=QUANTIZED_COLOR, marker="o", markersize=4, linestyle="none", label="one weight"),
        Line2D([], [], color=_TEXT, label="median"),
        Line2D([], [], color=_QUIET, linestyle=(0, (2, 1.5)), label="median of COMQ on the whole range"),
    )
    figure.legend(handles=handles, loc="lower left", ncols=3, fontsize=7.5, frameon=False, labelcolor=_TEXT)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7, colors=_QUIET, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)
