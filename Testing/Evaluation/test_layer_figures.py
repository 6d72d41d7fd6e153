"""The map of sensitivities as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medquant.evaluation.layer_figures import sensitivity_figure
from medquant.sensitivity.effects import LayerEffect, SensitivityMap
from medquant.sensitivity.trials import Rounding


@pytest.mark.parametrize("length", [10, 90], ids=["short", "long"])
def test_names_of_layers_are_whole(tmp_path: Path, length: int) -> None:
    layers = tuple(f"m.{number}".ljust(length, "m") for number in range(12))
    rounding = Rounding(2)
    cells = tuple(
        LayerEffect(layer, "Linear", (4, 4), 0.1, rounding, "one-at-a-time", 0.1 * number)
        for number, layer in enumerate(layers)
    )
    sensitivity_figure(tmp_path / "map.png", SensitivityMap(layers, (rounding,), cells))
    drawn = imread(tmp_path / "map.png")[:-30, :, :3]  # without the line at the bottom
    inked = np.flatnonzero((drawn < 0.9).any(axis=(0, 2)))
    assert inked[0] > 5 and inked[-1] < drawn.shape[1] - 5, "something ends at the edge of the picture"
