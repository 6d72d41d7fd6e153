"""Packed layers: what torch's own layer computes with the decoded weight, and what they take."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant.geometry import LayerGeometry
from medquant.granularity import PerChannel, PerGroup, PerTensor
from medquant.grid import sorted_grid, symmetric_zero
from medquant.layers import QuantizedLayer, storage_dtype
from medquant.recipe import IntWeights
from medquant.solvers.solve import Solution, solve

CASES: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(7, 5), (2, 3, 7)),
    (nn.Linear(7, 1, bias=False), (7,)),
    (nn.Conv1d(4, 6, 3, 2, 1, groups=2), (2, 4, 9)),
    (nn.Conv2d(3, 4, (3, 1), padding="same", padding_mode="reflect", dilation=2), (1, 3, 8, 7)),
    (nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), padding_mode="circular"), (1, 3, 8, 7)),
    (nn.Conv2d(2, 4, 3, padding="valid", padding_mode="replicate"), (1, 2, 5, 5)),
    (nn.Conv3d(4, 4, 3, padding=1, groups=4), (1, 4, 4, 5, 6)),
    (nn.Conv3d(1, 3, (1, 3, 3), padding="same"), (1, 1, 3, 5, 4)),
    (nn.ConvTranspose1d(3, 4, 2, 2), (1, 3, 5)),
    (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2), (1, 4, 5, 4)),
    (nn.ConvTranspose3d(2, 3, (2, 1, 3), (2, 1, 3), bias=False), (1, 2, 3, 3, 2)),
]
IDS = [str(case[0]) for case in CASES]
GRIDS = [
    IntWeights(4),
    IntWeights(2, zero_point="half"),
    IntWeights(3, PerGroup(3)),
    IntWeights(8, symmetric=True),
    IntWeights(5, PerTensor(), zero_point="integer"),
]


def quantized(module: nn.Module, weights: IntWeights) -> tuple[QuantizedLayer, list[Solution]]:
    geometry = LayerGeometry.of(module)
    matrices = geometry.layout.to_matrices(module.weight.detach())
    gram = torch.eye(matrices.shape[1])
    solutions = [solve(matrix, gram, weights, share=geometry.layout.share) for matrix in matrices]
    codes = torch.stack([solution.codes for solution in solutions])
    grids = [solution.grid for solution in solutions]
    bias = None if module.bias is None else module.bias.detach().clone()
    return QuantizedLayer.from_solutions(geometry, weights.bits, codes, grids, symmetric_zero(weights), bias), solutions


@pytest.mark.parametrize("weights", GRIDS, ids=lambda w: f"{w.bits}-{w.zero_point}-{type(w.granularity).__name__}")
@pytest.mark.parametrize(("module", "shape"), CASES, ids=IDS)
@torch.inference_mode()
def test_same_as_the_torch_layer_with_the_decoded_weight(
    module: nn.Module, shape: tuple[int, ...], weights: IntWeights
) -> None:
    layer, solutions = quantized(module, weights)
    layout = layer.geometry.layout
    wanted = torch.stack([solution.values() for solution in solutions])
    torch.testing.assert_close(layout.to_matrices(layer.weight), wanted, rtol=2e-3, atol=2e-3)
    assert torch.equal(layer.codes(), torch.stack([solution.codes for solution in solutions]))
    twin = type(module).__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin._parameters = dict(module._parameters, weight=nn.Parameter(layer.weight))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), twin(x))
    assert torch.equal(layer(input=x), twin(x))


@pytest.mark.parametrize(("module", "shape"), CASES, ids=IDS)
def test_geometry_is_plain_data(module: nn.Module, shape: tuple[int, ...]) -> None:
    geometry = LayerGeometry.of(module)
    back = LayerGeometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert back == geometry and back.layout == geometry.layout


@pytest.mark.parametrize("wanted", [(7, 9), (8, 10), (1, 6, 8, 9)])
def test_output_sizes_of_transposed_convolutions(wanted: tuple[int, ...]) -> None:
    module = nn.ConvTranspose2d(4, 6, 3, 2, 1).eval()
    layer, _ = quantized(module, IntWeights(8))
    x = torch.randn(1, 4, 4, 5)
    found, expected = layer(x, wanted), module(x, output_size=wanted)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    ("grain", "extra"),
    [(PerChannel(), 8), (PerGroup(64), 8 * 4)],
    ids=["channel", "group"],
)
def test_stored_bits_by_hand(bits: int, grain: Any, extra: int) -> None:
    """Codes, a scale and an offset for each output and group (32 bits from 7 on), a byte for each input with groups."""
    layer, _ = quantized(nn.Linear(256, 8), IntWeights(bits, grain))
    stored = {2: 2, 3: 3, 4: 4}.get(bits, 8)
    groups = 256 * 8 if isinstance(grain, PerGroup) else 0
    number = 32 if bits > 6 else 16
    assert layer.stored_bits() == 256 * 8 * stored + 2 * number * extra + groups
    half, _ = quantized(nn.Linear(256, 8), IntWeights(bits, zero_point="half"))
    assert half.stored_bits() == 256 * 8 * stored + number * 8


def test_a_weight_sorted_over_the_layer_costs_an_index_for_each_weight() -> None:
    module = nn.Linear(32, 16)
    matrix = module.weight.detach().T
    weights = IntWeights(2)
    grid = sorted_grid(matrix, torch.ones(32), weights)
    solution = solve(matrix, torch.eye(32), weights, grid=grid)
    layer = QuantizedLayer.from_solutions(
        LayerGeometry.of(module), 2, solution.codes[None], [solution.grid], None, None
    )
    torch.testing.assert_close(layer.weight.T, solution.values(), rtol=2e-3, atol=2e-3)
    assert layer.stored_bits() == 512 * 2 + 512 * 8 + 2 * 16 * 16
    assert (layer.weight - module.weight).norm() < 0.2 * module.weight.norm()


def test_more_than_256_groups() -> None:
    module = nn.Linear(600, 3)
    layer, (solution,) = quantized(module, IntWeights(4, PerGroup(2)))
    assert layer.row_group.dtype == torch.int16 and int(layer.row_group.max()) == 299
    torch.testing.assert_close(layer.weight.T, solution.values(), rtol=2e-3, atol=2e-3)


@given(st.floats(1e-3, 1e4), st.booleans())
def test_numbers_that_half_precision_would_lose_stay_single(value: float, negative: bool) -> None:
    value = -value if negative else value
    assert storage_dtype(4, torch.tensor([value, 0.0]), None) == torch.float16
    assert storage_dtype(8, torch.tensor([value, 0.0]), None) == torch.float32
    for outside in (1e5, 1e-6):
        assert storage_dtype(4, torch.tensor([value]), torch.tensor([outside])) == torch.float32


@pytest.mark.parametrize("magnitude", [1e-9, 1e-6, 1e7])
def test_weights_of_any_magnitude(magnitude: float) -> None:
    module = nn.Linear(24, 4)
    with torch.no_grad():
        module.weight.mul_(magnitude)
    layer, _ = quantized(module, IntWeights(8))
    assert (layer.weight - module.weight).norm() < 0.02 * module.weight.norm()


def test_nothing_is_trained_or_hidden() -> None:
    layer, _ = quantized(nn.Conv2d(2, 3, 3), IntWeights(4))
    assert not list(layer.parameters())
    assert set(layer.state_dict()) == {"packed", "scale", "offset", "bias"}
    assert "Conv2d" in repr(layer) and "bits=4" in repr(layer)
