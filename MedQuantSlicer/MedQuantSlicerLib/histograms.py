"""Two small pictures: how the weights of a layer are spread, and what it gets."""

from __future__ import annotations

from math import log1p
from typing import Any

import qt

from MedQuantSlicerLib.layer_state import Histogram, LayerLine
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.style import FP32_BLUE

BAR, HIGH = 12, 208
"""Pixels of a picture: it is drawn larger than it is shown, and so is sharp at every width."""


class HistogramPair:
    """Paints the histograms of the layer that was clicked."""

    def __init__(self, place: Any, weights: tuple[Any, Any], inputs: tuple[Any, Any]) -> None:
        """`weights` and `inputs`: the labels of a picture and of its caption."""
        self._place, self._weights, self._inputs = place, weights, inputs
        self._shown: tuple[Histogram | None, Histogram | None] = (None, None)
        place.setVisible(False)

    def show(self, layer: LayerLine | None) -> None:
        """Paint, or nothing where nothing is known."""
        pair = (layer.weights, layer.inputs) if layer is not None else (None, None)
        self._place.setVisible(None not in pair)
        if None in pair or pair == self._shown:
            return
        self._shown = pair
        titles = _("Weights"), _("Inputs")
        for (picture, caption), title, found in zip((self._weights, self._inputs), titles, pair):
            picture.setPixmap(picture_of(found))
            caption.text = _("{title} {minimum} to {maximum}").format(
                title=title, minimum=number(found.minimum), maximum=number(found.maximum)
            )


def picture_of(found: Histogram) -> Any:
    """Bars with logarithmic heights on a line."""
    pixmap = qt.QPixmap(BAR * len(found.counts), HIGH)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    color, painter = qt.QColor(FP32_BLUE), qt.QPainter()
    painter.begin(pixmap)
    for place, high in enumerate(heights(found.counts)):
        tall = round(high * (HIGH - 4))
        painter.fillRect(BAR * place, HIGH - 4 - tall, BAR - 2, tall, color)
    painter.fillRect(0, HIGH - 4, BAR * len(found.counts), 4, qt.QColor(128, 128, 128))
    painter.end()
    return pixmap


def heights(counts: tuple[int, ...]) -> list[float]:
    """Of the bars, 0 to 1; a single number is seen as well."""
    most = max(counts, default=0)
    return [log1p(count) / log1p(most) if most else 0.0 for count in counts]


def number(value: float) -> str:
    """Three digits: "-0.312", "4.1", "12.8"."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}", 1)
