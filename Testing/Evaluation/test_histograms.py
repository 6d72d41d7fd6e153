"""Histograms of weights and inputs, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medquant.errors import Cancelled
from medquant.evaluation.histograms import BINS, Histogram, layer_histograms
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module


class Net(nn.Module):
    """A convolution, and a linear layer over its channels that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.lin = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(self.lin(self.conv(x).movedim(1, -1))).movedim(-1, 1)


@pytest.fixture(scope="module")
def model() -> TorchModel:
    torch.manual_seed(0)
    return from_module(Net(), name="net")


@pytest.fixture(scope="module")
def batch() -> CalibrationBatch:
    return CalibrationBatch((torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(1)),))


def test_weights_and_first_inputs_are_counted(model: TorchModel, batch: CalibrationBatch) -> None:
    conv, lin = layer_histograms(model, [batch])
    assert (conv.layer, lin.layer) == ("conv", "lin")
    with torch.no_grad():
        between = model.network.conv(batch.inputs[0])
    for found, values in (
        (conv.weights, model.network.conv.weight),
        (conv.inputs, batch.inputs[0]),
        (lin.weights, model.network.lin.weight),
        (lin.inputs, between),
    ):
        array = values.detach().numpy()
        counts, edges = np.histogram(array, BINS)
        assert (found.minimum, found.maximum) == (edges[0], edges[-1]) and sum(found.counts) == array.size
        assert np.abs(np.subtract(found.counts, counts)).sum() <= 4  # a number on an edge may fall to either side
    assert conv.to_dict()["weights"]["minimum"] == conv.weights.minimum
    assert all(not module._forward_pre_hooks for module in model.network.modules())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32, min_value=-1e6, max_value=1e6) | st.just(float("nan")), max_size=60))
def test_every_number_is_in_one_bin(values: list[float]) -> None:
    found = Histogram.of(torch.tensor(values))
    known = [value for value in values if value == value]
    assert len(found.counts) == BINS and sum(found.counts) == len(known)
    assert (found.minimum, found.maximum) == ((min(known), max(known)) if known else (0.0, 0.0))


def test_it_stops(model: TorchModel, batch: CalibrationBatch) -> None:
    with pytest.raises(Cancelled):
        layer_histograms(model, [batch], cancelled=lambda: True)
