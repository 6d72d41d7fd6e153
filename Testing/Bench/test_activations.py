"""`bench activations`: its rows are counted from the studies."""

from __future__ import annotations

import pytest
import torch

from medquant import load_model
from medquant.bench.activations import row_of
from medquant.evaluation.activations import study_activations
from medquant.models.base import CalibrationBatch


def test_a_row_counts_the_layers_that_lie_in_the_image() -> None:
    model = load_model("embedded", device="cpu")
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[[20.0, 30.0, 120.0, 150.0]]])
    study = study_activations(model, [CalibrationBatch((torch.randn(1, 3, 256, 256, generator=generator), boxes))])
    found = row_of("embedded", "noise", study)
    assert sum(one.placed for one in study.layers) == 39
    assert found.layers == 38, "the picture has three channels, too few for a kurtosis across"
    convolutions = [one for one in study.layers if one.placed and one.kind != "Linear" and one.channels >= 8]
    above = [one.quantiles_within[1] > one.quantiles_across[1] for one in convolutions]
    assert found.of_convolutions == pytest.approx(sum(above) / len(above))
    parts = found.of_convolutions * len(above) + found.of_linear * (38 - len(above))
    assert found.within_above_across == pytest.approx(parts / 38)
    assert sum(found.gflops.values()) == pytest.approx(sum(study.flops.values()) / 1e9)
