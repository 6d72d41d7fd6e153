"""Each rewrite by itself: against textbook matrices, and by what it leaves of a layer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.errors import UserError
from medquant.geometry import LayerGeometry
from medquant.granularity import PerChannel
from medquant.jobs import LayerJob
from medquant.matrices import Layout
from medquant.recipe import IntWeights
from medquant.rewrites.apply import rewrite_network
from medquant.rewrites.low_rank import branch, largest_components
from medquant.rewrites.rewritten import Rewritten
from medquant.rewrites.rotation import hadamard, order_for, rotated, rotated_weight
from medquant.rewrites.scaling import inputs_multiplied, outputs_divided, reach_of_inputs, reach_of_outputs
from medquant.rewrites.settings import LowRank, Rewrites, Rotation, Smoothing, rewrites_from_names
from medquant.rewrites.smoothing import best_alpha, exact_in_half, smoothing_factors

LAYERS = [
    (lambda: nn.Linear(24, 10), (3, 5, 24)),
    (lambda: nn.Conv1d(8, 6, 3, padding=1, padding_mode="circular"), (2, 8, 9)),
    (lambda: nn.Conv2d(16, 6, 3, stride=2, padding=1, dilation=2), (1, 16, 11, 9)),
    (lambda: nn.Conv3d(8, 12, (1, 3, 3), padding="same", groups=2), (1, 8, 4, 5, 6)),
    (lambda: nn.Conv3d(12, 8, 1, bias=False), (1, 12, 3, 4, 5)),
    (lambda: nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1), (1, 12, 5, 4)),
    (lambda: nn.ConvTranspose3d(8, 12, 2, stride=2, groups=2), (1, 8, 3, 2, 4)),
]
NAMES = ["linear", "circular", "dilated", "grouped", "pointwise", "transposed", "grouped-transposed"]
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS, ids=NAMES)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def with_weight(layer: nn.Module, weight: torch.Tensor) -> nn.Module:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


@pytest.mark.parametrize("order", [1, 2, 4, 32, 64])
def test_the_matrix_is_hadamards(order: int) -> None:
    matrix = hadamard(order)
    assert np.allclose(matrix * order**0.5, scipy.linalg.hadamard(order), atol=1e-6)
    assert torch.allclose(matrix @ matrix, torch.eye(order), atol=1e-6)


@given(channels=st.integers(1, 4096), most=st.sampled_from([2, 8, 32, 4096]))
def test_the_order_is_the_largest_that_divides(channels: int, most: int) -> None:
    order = order_for(channels, most)
    fitting = [2**n for n in range(13) if channels % 2**n == 0 and 2**n <= most]
    assert order == max(fitting)


@every_layer
@torch.inference_mode()
def test_a_rotation_is_undone_by_the_weights(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, inputs = make(), torch.randn(shape)
    layout = Layout.of(layer)
    expected, order = layer(inputs), order_for(layout.inputs, 32)
    assert order > 1
    axis = inputs.ndim - 1 if isinstance(layer, nn.Linear) else 1
    mixed = rotated(inputs, hadamard(order), axis)
    blocks = torch.einsum("ij,...bj->...bi", hadamard(order), inputs.movedim(axis, -1).unflatten(-1, (-1, order)))
    assert torch.allclose(mixed, blocks.flatten(-2).movedim(-1, axis), atol=1e-5)
    assert not close(mixed, inputs, 0.1)
    weight = rotated_weight(layer.weight, layout, order)
    assert close(with_weight(layer, weight)(mixed), expected)
    assert close(Rewritten(layer, order=order)(inputs), expected)


@every_layer
@given(seed=st.integers(0, 99))
@settings(max_examples=5)
@torch.inference_mode()
def test_factors_of_channels_cancel(make, shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer, inputs = make(), torch.randn(shape, generator=generator)
    layout, expected = Layout.of(layer), layer(inputs)
    axis = inputs.ndim - 1 if isinstance(layer, nn.Linear) else 1
    factors = torch.rand(layout.inputs * layout.groups, generator=generator) + 0.1
    shaped = factors.reshape([-1 if a == axis else 1 for a in range(inputs.ndim)])
    outer = torch.rand(layout.outputs, generator=generator) + 0.1
    output_axis = expected.ndim - 1 if isinstance(layer, nn.Linear) else 1
    weight = inputs_multiplied(layer.weight, layout, factors)
    assert close(with_weight(layer, weight)(inputs / shaped), expected)
    layer.bias = None
    expected = layer(inputs)
    divided = with_weight(layer, outputs_divided(layer.weight, layout, outer))(inputs)
    assert close(divided * outer.reshape([-1 if a == output_axis else 1 for a in range(expected.ndim)]), expected)


@every_layer
@torch.inference_mode()
def test_the_reach_of_a_channel_is_what_it_can_change(make, shape: tuple[int, ...]) -> None:
    """Of one channel of the input, and of one of the output, found by setting weights to nothing."""
    torch.manual_seed(0)
    layer = make()
    layout = Layout.of(layer)
    for reach, gone in ((reach_of_inputs, inputs_multiplied), (reach_of_outputs, outputs_divided)):
        found = reach(layer.weight, layout)
        assert float(found.max()) == float(layer.weight.abs().max())
        for channel in range(len(found)):
            factors = torch.full((len(found),), 0.0 if gone is inputs_multiplied else torch.inf)
            factors[channel] = 1.0
            assert float(gone(layer.weight, layout, factors).abs().max()) == float(found[channel])


@every_layer
@torch.inference_mode()
def test_a_branch_and_the_rest_make_the_layer(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, inputs = make(), torch.randn(shape)
    geometry = LayerGeometry.of(layer)
    if geometry.groups > 1:
        pytest.skip("grouped layers get no branch")
    expected = layer(inputs)
    matrix = geometry.layout.to_matrices(layer.weight)[0]
    down, up, rest = largest_components(layer.weight, geometry, 3)
    # Eckart and Young: no other matrix of this rank leaves less; factors in half precision are within their rounding.
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert float(rest.norm()) == pytest.approx(float(np.sqrt((values[3:] ** 2).sum())), rel=1e-3)
    assert torch.equal(down.half().float(), down) and torch.equal(up.half().float(), up)
    assert close(with_weight(layer, rest)(inputs) + branch(inputs, down, up, geometry), expected)
    assert close(Rewritten(layer, down=down, up=up)(inputs), expected)


def test_a_transposed_convolution_may_be_asked_for_a_size() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1), torch.randn(1, 8, 5, 5)
    with torch.inference_mode():
        expected = layer(inputs, output_size=(10, 10))
        down, up, rest = largest_components(layer.weight, LayerGeometry.of(layer), 2)
        whole = Rewritten(with_weight(layer, rest), down=down, up=up)
        assert close(whole(inputs, output_size=(10, 10)), expected) and expected.shape[-1] == 10
        assert whole(inputs).shape[-1] == 9


def test_smoothing_evens_the_channels_out_and_keeps_the_product() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8, bias=False)
    inputs = torch.randn(100, 16) * torch.logspace(-2, 2, 16)
    factors = smoothing_factors(inputs.abs().amax(0), reach_of_inputs(layer.weight.detach(), Layout.of(layer)))
    assert torch.allclose((inputs / factors) @ (layer.weight * factors).T, layer(inputs), rtol=1e-4, atol=1e-4)
    reach = (inputs / factors).abs().amax(0)
    assert reach.max() / reach.min() < 0.05 * inputs.abs().amax(0).max() / inputs.abs().amax(0).min()
    assert torch.equal(smoothing_factors(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])), torch.ones(2))


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=5))
def test_factors_are_stored_in_half_where_that_holds_them(values: list[float]) -> None:
    factors = torch.tensor(values)
    found = exact_in_half(factors)
    assert torch.allclose(found, factors, rtol=1e-3, atol=0)
    if all(1e-4 < value < 6e4 for value in values):
        assert torch.equal(found.half().float(), found)


def trial(module: nn.Module, activations: IntActivations | None) -> LayerJob:
    weight, bias = module.weight.detach(), module.bias.detach()
    geometry = LayerGeometry.of(module)
    return LayerJob("layer", 0, module, weight, bias, IntWeights(4), geometry, activations=activations)


@pytest.mark.parametrize("bits", [None, 4])
def test_the_best_alpha_errs_least(bits: int | None) -> None:
    """Against rounding by hand, with one scale for the input and one for each output of the weight."""
    torch.manual_seed(0)
    layer, rows = nn.Linear(32, 24), torch.randn(500, 32) * torch.logspace(-2, 2, 32)
    settings = None if bits is None else IntActivations(bits=bits, observer="min-max")
    reach, strength = rows.abs().amax(0), reach_of_inputs(layer.weight.detach(), Layout.of(layer))
    alpha = best_alpha(trial(layer, settings), reach, strength, rows[:, :, None], rows)

    def error(alpha: float | None) -> float:
        factors = torch.ones(32) if alpha is None else smoothing_factors(reach, strength, alpha)
        inputs, weight = rows / factors, (layer.weight.detach() * factors).T
        if bits is not None:
            low, high = inputs.min().clamp_max(0), inputs.max().clamp_min(0)
            step = (high - low) / (2**bits - 1)
            zero = (-low / step).round()
            inputs = ((inputs / step).round() + zero).clamp(0, 2**bits - 1).sub(zero) * step
        weight = clipped(weight, inputs.square().mean(0))
        return float((inputs @ weight - rows @ layer.weight.detach().T).square().sum())

    def clipped(weight: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """To the nearest of 16 levels; of each output the ends, moved in or not, that err least."""
        found = []
        for part in (1.0, 0.8, 0.6):
            low, high = part * weight.amin(0), part * weight.amax(0)
            step = (high - low) / 15
            found.append(((weight - low) / step).round().clamp(0, 15) * step + low)
        errors = torch.stack([(importance[:, None] * (one - weight).square()).sum(0) for one in found])
        return torch.where(errors.argmin(0) == 0, found[0], torch.where(errors.argmin(0) == 1, found[1], found[2]))

    tried = {one: error(one) for one in (None, 0.25, 0.5, 0.75, 1.0)}
    # The rows that were looked at are half of these.
    assert tried[alpha] <= 1.1 * min(tried.values())
    if bits is not None:
        assert alpha is not None and tried[alpha] < 0.5 * tried[None]


def test_inputs_with_a_scale_of_their_own_are_judged_by_the_weights() -> None:
    torch.manual_seed(0)
    layer, rows = nn.Conv2d(16, 12, 1), torch.randn(400, 16) * torch.logspace(-2, 2, 16)
    reach, strength = rows.abs().amax(0), reach_of_inputs(layer.weight.detach(), Layout.of(layer))
    channels = IntActivations(bits=4, granularity=PerChannel())
    found = best_alpha(trial(layer, channels), reach, strength, rows[:, :, None], rows)
    assert found == best_alpha(trial(layer, None), reach, strength, rows[:, :, None], rows)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Smoothing(1.5), "between 0 and 1"),
        (lambda: Rotation(24), "power of two"),
        (lambda: Rotation(1), "power of two"),
        (lambda: LowRank(0), "at least 1"),
        (lambda: rewrites_from_names(["sideways"]), "Unknown rewrite 'sideways'"),
        (lambda: rewrites_from_names(["rotation=two"]), "Unknown rewrite"),
        (lambda: rewrites_from_names(["equalization=1"]), "Unknown rewrite"),
        (lambda: Rewrites.from_dict({"smoothing": {"beta": 1}}), "unknown entries: beta"),
        (lambda: Rewrites.from_dict({"smooth": None}), "unknown entries: smooth"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()


def test_words_are_settings() -> None:
    found = rewrites_from_names(["smoothing=search", "low-rank", "rotation=8", "equalization"])
    assert found == Rewrites(True, Smoothing(None), Rotation(8), LowRank(4))
    assert rewrites_from_names(["smoothing"]) == Rewrites(smoothing=Smoothing(0.5))
    assert rewrites_from_names(["smoothing=0.7"]).smoothing.alpha == 0.7


def test_an_output_that_changes_by_more_than_a_ten_thousandth_is_refused() -> None:
    expected = torch.linspace(-1, 1, 9)
    network, nothing = torch.nn.Identity(), {}
    assert rewrite_network(network, nothing, nothing, [lambda: expected * (1 + 5e-5)], expected, None) == {}
    with pytest.raises(UserError, match="Leave the rewrites out"):
        rewrite_network(network, nothing, nothing, [lambda: expected * (1 + 5e-4)], expected, None)
