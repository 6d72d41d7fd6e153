"""The grids of layers' inputs: what one scale covers, observers, dither."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant.activation_settings import OBSERVERS, IntActivations
from medquant.activations import ActivationQuantizer, fit_quantizer, spread_of
from medquant.dither import ordered_dither
from medquant.geometry import LayerGeometry
from medquant.granularity import Adaptive, PerChannel, PerTensor, PerToken, PerVoxel
from medquant.observers import find_range, grid_of

LINEAR = LayerGeometry.of(nn.Linear(6, 4))
POINTWISE = LayerGeometry.of(nn.Conv3d(6, 4, 1))
CONVOLUTION = LayerGeometry.of(nn.Conv3d(6, 4, 3))
DEPTHWISE = LayerGeometry.of(nn.Conv3d(6, 6, 1, groups=6))
TRANSPOSED = LayerGeometry.of(nn.ConvTranspose3d(6, 4, 2, stride=2))


@pytest.mark.parametrize(
    ("granularity", "spreads"),
    [
        (PerTensor(), ("tensor", "tensor", "tensor", "tensor", "tensor")),
        (PerChannel(), ("channel", "channel", "channel", "channel", "channel")),
        (PerToken(), ("position", "channel", "channel", "channel", "channel")),
        (PerVoxel(), ("position", "position", "position", "position", "position")),
        (Adaptive(), ("position", "position", "channel", "channel", "channel")),
    ],
)
def test_what_one_scale_covers(granularity: object, spreads: tuple[str, ...]) -> None:
    settings = IntActivations(granularity=granularity, mode="dynamic")
    kinds = (LINEAR, POINTWISE, CONVOLUTION, DEPTHWISE, TRANSPOSED)
    assert tuple(spread_of(settings, geometry) for geometry in kinds) == spreads


def explicit(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: int) -> torch.Tensor:
    """The levels of a grid listed one by one; every value goes to the nearest."""
    scale = (high - low) / (levels - 1)
    zero = torch.round(-low / scale)
    table = (torch.arange(levels) - zero) * scale
    return table[(values[..., None] - table).abs().argmin(-1)]


@given(st.integers(2, 8), st.booleans(), st.sampled_from(["tensor", "channel", "position"]), st.integers(0, 99))
def test_a_dynamic_grid_is_that_of_its_input(bits: int, symmetric: bool, spread: str, seed: int) -> None:
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 0.4
    quantizer = ActivationQuantizer(bits, spread, symmetric=symmetric, channel_axis=1)
    found = quantizer(values)
    for part in {"tensor": [0, 1], "channel": [(0, 1), (1, 2)], "position": [(1, slice(None), 2, 3)]}[spread]:
        low, high = values[part].min().clamp_max(0), values[part].max().clamp_min(0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        step = (high - low) / (2**bits - symmetric - 1)
        wanted = explicit(values[part], low, high, 2**bits - symmetric)
        # A value midway between two levels may go to either.
        differs = (found[part] - wanted).abs() > step * 0.01
        assert (found[part] - wanted).abs().max() <= step * 1.001 and int(differs.sum()) <= 1 + differs.numel() // 50
    assert torch.equal(quantizer(torch.zeros_like(values)), torch.zeros_like(values))


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_observer_keeps_zero_exact_and_covers_a_plain_range(observer: str, symmetric: bool) -> None:
    samples = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [5.0], [0.1]])
    low, high = find_range(samples, 255 if symmetric else 256, observer, symmetric=symmetric)
    assert (low <= 0).all() and (high > 0).all()
    if symmetric:
        assert torch.equal(low, -high)
    assert (high > 0.9 * samples.amax(1)).all() and (high <= samples.amax(1) * 1.001).all()


@given(st.integers(2, 8), st.booleans(), st.integers(0, 50))
def test_least_error_is_no_worse_than_the_full_range(bits: int, symmetric: bool, seed: int) -> None:
    samples = torch.randn(2, 3000, generator=torch.Generator().manual_seed(seed)) ** 3
    levels = 2**bits - symmetric

    def error(observer: str) -> torch.Tensor:
        scale, zero = (v[:, None] for v in grid_of(*find_range(samples, levels, observer, symmetric=symmetric), levels))
        return (((samples / scale + zero).round().clamp(0, levels - 1) - zero) * scale - samples).square().mean(1)

    assert (error("mse") <= error("min-max") * 1.0001).all()


@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
def test_a_lone_outlier_does_not_decide(observer: str) -> None:
    samples = torch.randn(1, 20000, generator=torch.Generator().manual_seed(0))
    samples[0, 7] = 30.0
    assert find_range(samples, 16, observer, symmetric=False)[1] < 20
    assert find_range(samples, 16, "min-max", symmetric=False)[1] == 30


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_a_dither_is_even_and_leaves_zero_alone(size: list[int]) -> None:
    moved = ordered_dither(tuple(size))
    assert moved.shape == torch.Size(size) and moved.abs().max() < 0.5
    assert torch.equal(moved.round(), torch.zeros_like(moved))
    cells = 2 ** len(size)
    whole = ordered_dither((8,) * len(size))
    assert len(whole.unique()) == cells and abs(float(whole.mean())) < 1e-6


@given(st.floats(0.0, 1.0), st.sampled_from(["tensor", "channel"]))
def test_a_cell_of_even_tissue_has_many_levels(value: float, spread: str) -> None:
    """Sixteen levels give a voxel an error of up to 1/30, and the mean of eight voxels one of up to 1/240."""
    scale = torch.tensor(1 / 15) if spread == "tensor" else torch.full((1,), 1 / 15)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    quantizer = ActivationQuantizer(4, spread, symmetric=False, channel_axis=1, dither=True, scale=scale, zero=zero)
    found = quantizer(torch.full((1, 1, 4, 4, 4), value))
    # At the ends of the range there is nothing to move to.
    if 1 / 30 < value < 1 - 1 / 30:
        assert abs(float(found.mean()) - value) <= 1 / 240 + 1e-6
    assert ((found * 15 - (found * 15).round()).abs() < 1e-4).all()


def test_only_layers_that_sum_over_neighbours_are_dithered() -> None:
    values = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    kinds = (LINEAR, POINTWISE, CONVOLUTION, DEPTHWISE, TRANSPOSED)
    made = [fit_quantizer(IntActivations(4), geometry, values).dither for geometry in kinds]
    assert made == [False, False, True, False, False]
    assert not fit_quantizer(IntActivations(4, dither=False), CONVOLUTION, values).dither


@pytest.mark.parametrize("observer", ["min-max", "mse", "output"])
def test_a_loud_channel_is_seen_wherever_it_is(observer: str) -> None:
    """2^18 numbers are looked at; of 24 times as many, with 24 times 32 channels, every channel must be among them."""
    values = torch.randn(8192, 768, generator=torch.Generator().manual_seed(0))
    values[:, 37] *= 50
    settings = IntActivations(8, symmetric=True, observer=observer)
    found = fit_quantizer(settings, LayerGeometry.of(nn.Linear(768, 4)), values)
    error = (found(values[:, 37]) - values[:, 37]).square().mean() / values[:, 37].square().mean()
    assert error < 0.02


def test_dither_lies_where_the_values_do() -> None:
    quantizer = ActivationQuantizer(4, "tensor", symmetric=False, channel_axis=1, dither=True)
    assert quantizer(torch.zeros(1, 2, 4, 4, device="meta")).device.type == "meta"
