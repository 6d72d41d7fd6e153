"""What flows between layers: moments against scipy, outliers where they were put, arithmetic counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from medquant import load_model
from medquant.errors import Cancelled, UserError
from medquant.evaluation.activations import (
    BINS,
    outlier_map,
    study_activations,
)
from medquant.evaluation.kurtosis import by_channel, kurtosis
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module


class Net(nn.Module):
    """A convolution, a grouped one, a transposed one, and a linear layer over the channels of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.grouped(self.conv(x)))
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


@pytest.fixture
def model() -> TorchModel:
    """The network as a model."""
    torch.manual_seed(0)
    return from_module(Net(), name="net")


def _batches(count: int = 2) -> list[CalibrationBatch]:
    generator = torch.Generator().manual_seed(1)
    return [CalibrationBatch((torch.randn(1, 1, 10, 12, generator=generator),)) for _ in range(count)]


@given(st.integers(0, 1000))
def test_kurtosis_is_that_of_scipy(seed: int) -> None:
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    for dim in (0, 1):
        expected = stats.kurtosis(values.numpy(), axis=dim, fisher=False)
        assert kurtosis(values, dim).numpy() == pytest.approx(expected, rel=1e-9)


def test_what_does_not_vary_has_no_kurtosis() -> None:
    values = torch.stack([torch.full((50,), 7.3), torch.arange(50.0)])
    assert kurtosis(values, 1).isnan().tolist() == [True, False]


def test_every_layer_is_described_by_what_it_gets(model: TorchModel) -> None:
    batches = _batches()
    found = study_activations(model, batches)
    assert [layer.layer for layer in found.layers] == ["conv", "grouped", "up", "linear"]
    with torch.inference_mode():
        inputs = torch.cat([model.network.conv(batch.inputs[0]) for batch in batches])
    layer = found.layers[1]
    channels = inputs.movedim(1, 0).flatten(1).numpy()
    assert (layer.channels, layer.positions) == channels.shape == (8, 240)
    assert (layer.minimum, layer.maximum) == pytest.approx((channels.min(), channels.max()))
    assert (layer.mean, layer.deviation) == pytest.approx((channels.mean(), channels.std()), rel=1e-4)
    assert layer.kurtosis_within == pytest.approx(stats.kurtosis(channels, axis=1, fisher=False).mean(), rel=1e-3)
    assert layer.kurtosis_across == pytest.approx(stats.kurtosis(channels, axis=0, fisher=False).mean(), rel=1e-3)
    for axis, told in ((1, layer.quantiles_within), (0, layer.quantiles_across)):
        expected = np.quantile(stats.kurtosis(channels, axis=axis, fisher=False), (0.1, 0.5, 0.9))
        assert told == pytest.approx(expected, rel=1e-3)
    assert found.layers[0].quantiles_across == (0.0, 0.0, 0.0)
    counts, _ = np.histogram(channels, BINS, (layer.minimum, layer.maximum))
    assert sum(layer.histogram) == channels.size and np.abs(np.array(layer.histogram) - counts).sum() <= 4
    assert found.layers[3].channels == 6 and found.layers[0].kurtosis_across == 0.0
    assert found.to_dict()["layers"][1]["layer"] == "grouped"


def test_arithmetic_is_counted_by_kind(model: TorchModel) -> None:
    flops = study_activations(model, _batches(1)).flops
    places = 10 * 12
    convolutions = places * (8 * 9 + 8 * 4 * 9) + places * 8 * 6 * 4
    assert flops == {"convolution": 2 * convolutions, "linear": 2 * 4 * places * 6 * 3}


def test_outliers_are_where_they_were_put() -> None:
    inputs = torch.randn(1, 4, 9, 11, generator=torch.Generator().manual_seed(0))
    inputs[0, 2, 5, 7] = 60.0
    for module, given_as in ((nn.Conv2d(4, 2, 3), inputs), (nn.Linear(4, 2), inputs.movedim(1, -1))):
        places = outlier_map(module, given_as)
        assert places.shape == (1, 9, 11)
        assert np.unravel_index(places.argmax(), places.shape) == (0, 5, 7) and places.max() > 6
    model = from_module(nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU()), name="one")
    found = study_activations(model, [CalibrationBatch((inputs,))])
    assert list(found.maps) == ["0"] and found.maps["0"].argmax() == 5 * 11 + 7
    (layer,) = found.layers
    assert layer.outliers == pytest.approx(1 / inputs.numel()) and layer.kurtosis_within > 10 > layer.kurtosis_across


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Conv3d(4, 6, 1), (2, 4, 3, 5, 7)), (nn.Conv2d(4, 6, 1), (4, 5, 7)), (nn.Linear(4, 2), (2, 9, 4))],
)
def test_channels_come_first(module: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape)
    found = by_channel(module, inputs)
    assert found.shape == (4, inputs.numel() // 4)
    axis = shape.index(4)
    assert torch.equal(found[2], inputs.select(axis, 2).flatten())


def test_the_embedded_networks_can_be_looked_at() -> None:
    model = load_model("embedded-nnunet", device="cpu")
    batch = CalibrationBatch((torch.randn(1, 1, *model.plans.patch_size, generator=torch.Generator().manual_seed(0)),))
    found = study_activations(model, [batch])
    assert set(found.flops) == {"convolution"} and len(found.layers) > 10
    assert all(np.isfinite(layer.kurtosis_within) for layer in found.layers)


def test_it_stops_and_says_what_is_missing(model: TorchModel) -> None:
    with pytest.raises(Cancelled):
        study_activations(model, _batches(), cancelled=lambda: True)
    with pytest.raises(UserError, match="no linear or convolution layer"):
        study_activations(from_module(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1)), name="none"), _batches())


def test_one_layer_is_shown_before_and_after_smoothing(model: TorchModel) -> None:
    """Against SmoothQuant's formula; within channels nothing changes but the scale."""
    batches = _batches(1)
    found = study_activations(model, batches, layer="grouped").smoothed
    with torch.inference_mode():
        inputs = model.network.conv(batches[0].inputs[0])[0].flatten(1).numpy()
    weight = model.network.grouped.weight.detach().numpy()  # (outputs, channels of a group, 3, 3)
    reach, strength = np.abs(inputs).max(1), np.abs(weight.reshape(2, 4, 4, 9)).max((1, 3)).reshape(-1)
    factors = reach**0.5 / strength**0.5
    rows = np.array_split(np.abs(inputs), 120, 1)
    assert found.layer == "grouped" and found.before.shape == (120, 8)
    assert found.before == pytest.approx(np.stack([row.max(1) for row in rows]))
    assert found.after == pytest.approx(found.before / factors, rel=1e-4)
    smoothed = inputs / factors[:, None]
    for values, told in ((inputs, found.kurtosis_across), (smoothed, found.smoothed_kurtosis_across)):
        assert told == pytest.approx(stats.kurtosis(values, axis=0, fisher=False).mean(), rel=1e-3)
    for values in (inputs, smoothed):
        within = stats.kurtosis(values, axis=1, fisher=False).mean()
        assert found.kurtosis_within == pytest.approx(within, rel=1e-3)
    told = found.to_dict()
    assert told["channel_maxima_before"] == pytest.approx(reach)
    assert told["channel_maxima_after"] == pytest.approx(reach / factors, rel=1e-4)
    peaked = study_activations(model, batches)
    several = [layer for layer in peaked.layers if layer.channels > 1]
    assert peaked.smoothed.layer == max(several, key=lambda layer: layer.kurtosis_within).layer
    with pytest.raises(UserError, match=r"No layer called conv has an input of several channels. Choose one"):
        study_activations(model, batches, layer="conv")
