"""The map of sensitivities as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medquant.evaluation import layer_figures
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


def test_types_of_layers_are_bars_as_long_as_their_gain(tmp_path: Path) -> None:
    """And nothing but room for them is added to the picture."""
    roundings = Rounding(2), Rounding(8)
    cells = tuple(LayerEffect("a", "Linear", (4, 4), 1.0, r, "incremental", 0.1) for r in roundings)
    gains = {("Linear MLP", roundings[0]): 0.4, ("Linear MLP", roundings[1]): 0.1, ("Conv2d 3x3", roundings[0]): 0.2}
    types = tuple(
        LayerEffect(kind, kind, (), 0.5, r, "incremental", 0.1, dsc_loss=gain) for (kind, r), gain in gains.items()
    )
    plain = SensitivityMap(("a",), roundings, cells)
    drawn = [
        imread(sensitivity_figure(tmp_path / f"{n}.png", found))[..., :3]
        for n, found in enumerate((plain, replace(plain, types=types)))
    ]
    assert drawn[1].shape[0] > drawn[0].shape[0] + 100
    first = np.array(layer_figures._MAP(0.85)[:3])
    lengths = (np.abs(drawn[1] - first) < 0.01).all(axis=2).sum(axis=1)
    long, short = np.unique(lengths[lengths > 100])[[-1, 0]]
    assert long / short == pytest.approx(2.0, rel=0.05), "at 2 bits, one type gains twice what the other does"
