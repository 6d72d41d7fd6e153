"""Pictures of a comparison, written as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.evaluation.compare import worst_slices
from medquant.evaluation.comparison import Comparison, ModelSummary
from medquant.evaluation.pictures import save_picture
from medquant.evaluation.scene import FP32_COLOR, QUANTIZED_COLOR, Scene, scene_of
from medquant.segmentation import Segmentation

_GROUND, _TEXT, _QUIET = "#0F1216", "#E6E9ED", "#8D96A1"
_CAPTION_INCHES = 0.62
_SQUARE = "\N{BLACK SQUARE}"
_HALO = [withStroke(linewidth=2.2, foreground="#000000", alpha=0.3)]


def contact_sheet(
    path: str | Path,
    segmentations: Sequence[Segmentation],
    *,
    comparison: Comparison | None = None,
    slices: int = 1,
    indices: Sequence[int] | None = None,
    axis: int | None = None,
) -> Path:
    """Every model side by side, slice by slice: outlines above, what differs from FP32 below, in colour.

    The first segmentation is FP32. `comparison` fills the captions with size and Dice. `indices` are slices along an
    array axis (None: head-feet); without them the `slices` that differ most. Raises `UserError` for a slice outside
    the scan and where `path` cannot be written.
    """
    if indices is None:
        indices = worst_slices(segmentations, slices, axis)
    scenes = _scenes(segmentations, indices, axis)
    figure, panels = _grid([scene for scene in scenes for _ in range(2)], columns=len(segmentations))
    for scene, above, below in zip(scenes, panels[::2], panels[1::2], strict=True):
        for model, (panel, lower) in enumerate(zip(above, below, strict=True)):
            draw_slice(panel, scene, outline=model)
            if model:
                draw_slice(lower, scene, difference=model)
        _mark(above[0], scene)
        below[0].set_axis_off()
    for model, (panel, segmentation) in enumerate(zip(panels[0], segmentations, strict=True)):
        title, caption = segmentation.model_name or f"model {model + 1}", ""
        if comparison is not None:
            summary = comparison.summary[model]
            title, caption = (
                wording.short_names(comparison.summary)[summary.name],
                _caption(summary, with_dice=model > 0),
            )
        panel.text(0, 1.12, title, transform=panel.transAxes, color=_TEXT, fontsize=14, weight="bold", va="bottom")
        panel.text(0, 1.035, caption, transform=panel.transAxes, color=_QUIET, fontsize=9.5, va="bottom")
    _explain(panels[1][0])
    return save_picture(figure, path)


def draw_slice(axes: Axes, scene: Scene, *, outline: int | None = None, difference: int | None = None) -> None:
    """Draw a scene on axes, true to scale, in mm: one model's outlines, or where one differs from FP32."""
    extent = (0, scene.width_mm, scene.height_mm, 0)
    # Grey steps back where the coloured difference is what matters.
    brightest = 255 if difference is None else 420
    axes.imshow(scene.grey, cmap="gray", vmin=0, vmax=brightest, extent=extent, interpolation="bilinear")
    if outline is not None:
        color = QUANTIZED_COLOR if outline else FP32_COLOR
        lines = LineCollection(scene.outlines_mm(outline), colors=color, linewidths=1.3, path_effects=_HALO)
        axes.add_collection(lines)
    if difference is not None:
        overlay = np.zeros((*scene.grey.shape, 4))
        for mask, color in (
            (scene.only_fp32(difference), FP32_COLOR),
            (scene.only_other(difference), QUANTIZED_COLOR),
        ):
            overlay[mask] = (*to_rgb(color), 1.0)
        axes.imshow(overlay, extent=extent, interpolation="nearest")
    axes.set(xlim=(0, scene.width_mm), ylim=(scene.height_mm, 0), aspect="equal")
    axes.set_axis_off()


def _scenes(segmentations: Sequence[Segmentation], indices: Sequence[int], axis: int | None) -> list[Scene]:
    volume = segmentations[0].volume
    count = volume.shape[volume.slice_axis if axis is None else axis]
    for index in indices:
        if not 0 <= index < count:
            raise UserError(f"There is no slice {index} in this direction. Choose one from 0 to {count - 1}.")
    return [scene_of(segmentations, index, axis) for index in indices]


def _grid(scenes: Sequence[Scene], columns: int) -> tuple[Figure, list[list[Axes]]]:
    """A dark figure with one panel for each column of each scene, sized so that nothing is stretched or padded."""
    width, gap, edge = 3.2, 0.06, 0.18
    height = width * scenes[0].height_mm / scenes[0].width_mm
    top = edge + _CAPTION_INCHES
    total_width = 2 * edge + columns * width + (columns - 1) * gap
    total_height = top + edge + len(scenes) * height + (len(scenes) - 1) * gap
    figure = Figure(figsize=(total_width, total_height), dpi=160, facecolor=_GROUND)
    panels = []
    for row in range(len(scenes)):
        bottom = total_height - top - (row + 1) * height - row * gap
        boxes = [(edge + column * (width + gap), bottom, width, height) for column in range(columns)]
        panels.append(
            [
                figure.add_axes((x / total_width, y / total_height, w / total_width, h / total_height))
                for x, y, w, h in boxes
            ]
        )
    return figure, panels


def _mark(axes: Axes, scene: Scene) -> None:
    """Slice number, patient sides and a scale bar of 5 cm."""
    _note(axes, (0, 1), (5, -5), f"{scene.view.plane}, slice {scene.index + 1}", ha="left", va="top")
    left, _, top, _ = scene.view.edges
    if scene.height_mm > 0.3 * scene.width_mm:  # a thin strip has no room for letters
        _note(axes, (0, 0.5), (5, 0), left, ha="left", va="center")
        _note(axes, (0.5, 1), (0, -5), top, ha="center", va="top")
    if scene.width_mm > 80:
        x, y = 0.98 * scene.width_mm, 0.96 * scene.height_mm
        axes.plot([x - 50, x], [y, y], color="white", linewidth=1.2, alpha=0.85, solid_capstyle="butt")
        _note(axes, ((x - 25) / scene.width_mm, 0.04), (0, 2), "5 cm", ha="center", va="bottom")


def _note(axes: Axes, where: tuple[float, float], points: tuple[float, float], text: str, **style: object) -> None:
    """White text at a fraction of the axes, moved by so many points."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": points}
    axes.annotate(text, where, **place, **{"color": "white", "alpha": 0.85, "fontsize": 8.5, **style})


def _explain(axes: Axes) -> None:
    """The corner below FP32, which does not differ from itself, holds the legend."""
    style = {"transform": axes.transAxes, "va": "top"}
    axes.text(0.0, 0.97, "Where the masks differ", color=_TEXT, fontsize=12, weight="bold", **style)
    axes.text(0.0, 0.84, f"{_SQUARE} FP32 only", color=FP32_COLOR, fontsize=10.5, **style)
    axes.text(0.0, 0.74, f"{_SQUARE} quantized only", color=QUANTIZED_COLOR, fontsize=10.5, **style)
    axes.text(0.0, 0.60, "Dice: mean over structures, against FP32", color=_QUIET, fontsize=9.5, **style)


def _caption(summary: ModelSummary, *, with_dice: bool) -> str:
    parts = []
    if summary.bytes_on_disk is not None:
        parts.append(wording.model_size(summary))
    if with_dice:
        parts.append(f"Dice {wording.score(summary.dsc_vs_fp32)}")
    if summary.seconds is not None:
        parts.append(wording.seconds(summary.seconds))
    return "   ".join(parts)
