"""What flows between layers: moments against scipy, outliers where they were put, arithmetic counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from medquant import load_model
from medquant.errors import Cancelled, UserError
from medquant.evaluation.activation_figures import _kurtosis, activation_figure
from medquant.evaluation.activations import BINS, study_activations
from medquant.evaluation.kurtosis import FEWEST, kurtosis, mean_of_known, quantiles_of_known
from medquant.evaluation.outlier_maps import coarse, outlier_map
from medquant.matrices import by_channel
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
    values = torch.randn(9, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    for dim in (0, 1):
        expected = stats.kurtosis(values.numpy(), axis=dim, fisher=False)
        assert kurtosis(values, dim).numpy() == pytest.approx(expected, rel=1e-9)


def test_what_does_not_vary_has_no_kurtosis() -> None:
    values = torch.stack([torch.full((50,), 7.3), torch.arange(50.0)])
    assert kurtosis(values, 1).isnan().tolist() == [True, False]


def test_too_few_numbers_have_no_kurtosis() -> None:
    few = torch.randn(FEWEST - 1, 3, generator=torch.Generator().manual_seed(0))
    assert kurtosis(few, 0).isnan().all() and not kurtosis(torch.cat([few, few[:1]]), 0).isnan().any()
    assert np.isnan(mean_of_known(kurtosis(few, 0))) and np.isnan(quantiles_of_known(kurtosis(few, 0))).all()


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
    first = found.layers[0].to_dict()
    assert np.isnan(found.layers[0].quantiles_across).all() and first["quantiles_across"] == [None, None, None]
    counts, _ = np.histogram(channels, BINS, (layer.minimum, layer.maximum))
    assert sum(layer.histogram) == channels.size and np.abs(np.array(layer.histogram) - counts).sum() <= 4
    assert found.layers[3].channels == 6 and first["kurtosis_across"] is None
    assert all(one.placed and one.segmenting and one.padding == 0 for one in found.layers)
    assert found.to_dict()["layers"][1]["layer"] == "grouped"


def test_arithmetic_is_counted_by_kind(model: TorchModel) -> None:
    flops = study_activations(model, _batches(1)).flops
    places = 10 * 12
    convolutions = places * (8 * 9 + 8 * 4 * 9) + places * 8 * 6 * 4
    assert flops == {"convolution": 2 * convolutions, "linear": 2 * 4 * places * 6 * 3}


def test_outliers_are_where_they_were_put() -> None:
    inputs = torch.randn(1, 8, 9, 11, generator=torch.Generator().manual_seed(0))
    inputs[0, 2, 5, 7] = 60.0
    for kind, convolution in ((nn.Conv2d(8, 2, 3), True), (nn.Linear(8, 2), False)):
        given_as = inputs if convolution else inputs.movedim(1, -1)
        rows = torch.cartesian_prod(torch.arange(9.0), torch.arange(11.0)).T
        places = outlier_map("one", by_channel(kind, given_as), rows)
        assert places.values.shape == (9, 11) and places.at == (5.0, 7.0) and places.values.max() > 6
    model = from_module(nn.Sequential(nn.Conv2d(8, 2, 3), nn.ReLU()), name="one")
    found = study_activations(model, [CalibrationBatch((inputs,))])
    (drawn,) = found.maps
    assert drawn.layer == "0" and drawn.at == (5.0, 7.0) and np.array_equal(found.picture, inputs[0, 0])
    told = found.to_dict()["outliers"][0]
    assert told["at"] == [5.0, 7.0] and told["map"][5][7] == pytest.approx(drawn.values[5, 7], rel=1e-3)
    (layer,) = found.layers
    assert (
        layer.outliers == pytest.approx(1 / inputs.numel(), rel=1e-4)
        and layer.kurtosis_within > 10 > layer.kurtosis_across
    )


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
    assert np.array(told["before"]).shape == (64, 8) and np.max(told["before"]) == pytest.approx(reach.max(), rel=1e-3)
    assert told["channel_maxima_before"] == pytest.approx(reach)
    assert told["channel_maxima_after"] == pytest.approx(reach / factors, rel=1e-4)
    peaked = study_activations(model, batches)
    several = [layer for layer in peaked.layers if layer.channels > 1]
    assert peaked.smoothed.layer == max(several, key=lambda layer: layer.kurtosis_within).layer
    with pytest.raises(UserError, match=r"No layer called conv has an input of several channels. Choose one"):
        study_activations(model, batches, layer="conv")


def test_a_coarse_map_keeps_the_largest_of_each_block() -> None:
    values = np.arange(100.0 * 3).reshape(100, 3)
    values[7] = np.nan
    found = coarse(values, 10)
    assert found.shape == (10, 3) and np.array_equal(found[:, 2], np.arange(9, 100, 10) * 3 + 2)
    assert np.isnan(coarse(np.full((20, 2), np.nan), 5)).all()


class Called(nn.Module):
    """Calls a layer by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(input=x)


def test_layers_called_by_keyword_are_seen_and_drawn(tmp_path: Path) -> None:
    found = study_activations(from_module(Called(), name="called"), _batches(1))
    assert [layer.layer for layer in found.layers] == ["conv"] and found.layers[0].placed
    drawn = activation_figure(tmp_path / "one.png", found)  # a network of one layer, with no kurtosis across
    assert drawn.read_bytes()[:4] == b"\x89PNG"


def test_nothing_is_drawn_where_nothing_was_measured(model: TorchModel, tmp_path: Path) -> None:
    """Below eight channels there is no kurtosis across, and no point for it."""
    figure = Figure()
    study = study_activations(model, _batches(1))
    axes = figure.add_subplot()
    _kurtosis(axes, study.drawn)
    within, across = (line.get_ydata() for line in axes.lines if line.get_marker() == "o")
    assert np.isnan(across).tolist() == [True, False, False, True] and not np.isnan(within).any()
    assert activation_figure(tmp_path / "net.svg", study).stat().st_size > 10_000
