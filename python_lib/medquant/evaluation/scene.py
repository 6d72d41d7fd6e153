"""One slice of a scan with the masks of two models: what every picture of a comparison is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medquant.evaluation.compare import labels_as_in
from medquant.evaluation.display import View, field_of_view, outlines_of_labels, view_of
from medquant.imaging.windows import window_of
from medquant.segmentation import Segmentation

FP32_COLOR = "#4C9BE8"
QUANTIZED_COLOR = "#F2A33A"


@dataclass(frozen=True, eq=False)
class Scene:
    """One slice as shown: grey values, and the labels of each model on it, the first being FP32."""

    index: int
    view: View
    grey: np.ndarray
    """uint8 (rows, columns), windowed as `medquant.imaging.windows` does."""
    labels: tuple[np.ndarray, ...]
    """Label maps (rows, columns), in the first model's numbering."""

    @property
    def width_mm(self) -> float:
        """Width of the picture."""
        return self.grey.shape[1] * self.view.column_mm

    @property
    def height_mm(self) -> float:
        """Height of the picture."""
        return self.grey.shape[0] * self.view.row_mm

    def outlines_mm(self, model: int) -> list[np.ndarray]:
        """Closed outlines of one model's structures: arrays (points, 2) of x and y in mm from the top left."""
        scale = (self.view.column_mm, self.view.row_mm)
        return [line * scale for line in outlines_of_labels(self.labels[model])]

    def only_fp32(self, model: int) -> np.ndarray:
        """Where FP32 names a structure and the other model names none or another one."""
        return (self.labels[0] != self.labels[model]) & (self.labels[0] > 0)

    def only_other(self, model: int) -> np.ndarray:
        """Where the other model names a structure and FP32 none."""
        return (self.labels[0] == 0) & (self.labels[model] != 0)


def scene_of(
    segmentations: Sequence[Segmentation], index: int, axis: int | None = None, *, aspect: float = 4 / 3
) -> Scene:
    """The slice `index` along an array axis (None: head-feet), cut to where the masks are.

    Every picture of one scan has the same field of view: that of all models' masks over all slices.
    """
    first = segmentations[0]
    view = view_of(first.volume, axis)
    window = window_of(first.volume)
    maps = [labels_as_in(first, other) for other in segmentations]
    shadow = [view.cut((labels > 0).any(axis=view.axis, keepdims=True), 0) for labels in maps]
    rows, columns = field_of_view(shadow, view, aspect=aspect)
    return Scene(
        index=index,
        view=view,
        grey=window.apply(view.cut(first.volume.array, index)[rows, columns]),
        labels=tuple(view.cut(labels, index)[rows, columns] for labels in maps),
    )
