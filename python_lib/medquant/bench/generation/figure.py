"""The images of every setting, a row each; a column is one noise."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from medquant.bench.generation.measure import REAL, Measured
from medquant.evaluation.pictures import save_picture

_TEXT, _QUIET = "#1C2024", "#6B7480"
_SIDE, _GAP, _LEFT = 1.0, 0.04, 1.75


def write_figure(measured: Measured, path: Path) -> Path:
    """Draw the samples of a run to `path`, a .png, .svg or .pdf. Raises `UserError` where it cannot be written."""
    captions = {row.name: f"FID {row.fid:.3f}" for row in measured.rows}
    captions[REAL] = "held out"
    columns = max(len(images) for images in measured.samples.values())
    width = _LEFT + columns * (_SIDE + _GAP)
    height = len(measured.samples) * (_SIDE + _GAP)
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    for y, (name, images) in enumerate(measured.samples.items()):
        bottom = height - (y + 1) * (_SIDE + _GAP) + _GAP
        middle = (bottom + _SIDE / 2) / height
        figure.text(0.08 / width, middle, name, fontsize=9, weight="bold", color=_TEXT, va="bottom")
        figure.text(0.08 / width, middle, captions[name], fontsize=8, color=_QUIET, va="top")
        for x, image in enumerate(images[:, 0].numpy()):
            left = _LEFT + x * (_SIDE + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
            axes.imshow(image, cmap="gray", vmin=-1, vmax=1)
            axes.set_axis_off()
    return save_picture(figure, path)
