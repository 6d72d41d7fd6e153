"""Which layers make a pair, and that their ranges are balanced while the output stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from medquant.evaluation.rewrite_study import recipe_of_study
from medquant.matrices import Layout
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.network_edit import structural_twin
from medquant.quantize import quantize
from medquant.rewrites.chains import find_chains
from medquant.rewrites.equalization import equalize
from medquant.rewrites.scaling import reach_of_inputs, reach_of_outputs
from medquant.rewrites.settings import Rewrites

PAIRS = {
    ("first", ("second",)),  # through LeakyReLU
    ("factors", ("third",)),  # the norm's own factors, through ReLU
    ("up", ("after_up",)),  # through ReLU in place and pooling
    ("mlp.2", ("mlp.4",)),  # linear layers
}
"""Of the network `chained`: the norm without factors, the sum, the concatenation and GELU end a chain."""


def chains_of(network: nn.Module, *inputs: torch.Tensor) -> set[tuple[str, tuple[str, ...]]]:
    return {(one.maker, tuple(one.readers)) for one in find_chains(network, lambda: network(*inputs))}


def test_pairs_are_those_with_nothing_but_homogeneous_functions_between(
    chained: nn.Module, pictures: list[torch.Tensor]
) -> None:
    assert chains_of(chained, pictures[0]) == PAIRS
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in chained.modules())


class Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between) -> None:
        super().__init__()
        self.a, self.between, self.b = nn.Conv2d(1, 4, 1), between, nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.between(self.a(x)))


def twice(x: torch.Tensor) -> torch.Tensor:
    y = functional.relu(x)
    return y * y


@pytest.mark.parametrize(
    ("between", "pair"),
    [
        (nn.Identity(), "a"),
        (nn.ReLU(), "a"),
        (nn.LeakyReLU(0.2, inplace=True), "a"),
        (nn.PReLU(), "a"),
        (nn.Sequential(nn.Dropout2d(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2)), "a"),
        (nn.BatchNorm2d(4), "between"),
        (nn.GroupNorm(2, 4), "between"),
        (nn.BatchNorm2d(4, affine=False), None),
        (nn.InstanceNorm2d(4), None),
        (nn.GELU(), None),
        (nn.ReLU6(), None),
        (nn.Sigmoid(), None),
        (lambda x: x + 1, None),
        (lambda x: x.flip(1), None),
        (twice, None),
    ],
    ids=[
        *("identity", "relu", "leaky", "prelu", "pooled", "batch-norm", "group-norm", "plain-batch-norm", "plain-norm"),
        *("gelu", "relu6", "sigmoid", "shifted", "flipped", "squared"),
    ],
)
def test_what_may_lie_between(between, pair: str | None) -> None:
    torch.manual_seed(0)
    if not isinstance(between, nn.Module):
        function, between = between, nn.Module()
        between.forward = function
    network, inputs = Between(between).eval(), torch.randn(1, 1, 6, 6)
    with torch.no_grad():
        network.a.weight.mul_(torch.logspace(-2, 2, 4).reshape(-1, 1, 1, 1))
    assert chains_of(network, inputs) == ({(pair, ("b",))} if pair else set())
    with torch.inference_mode():
        expected = network(inputs)
        found = equalize(network, {"b"}, lambda: network(inputs), expected)
        assert found == ({"b": pair} if pair else {})
        assert torch.allclose(network(inputs), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_ranges_are_balanced_and_the_output_stays(chained: nn.Module, pictures: list[torch.Tensor]) -> None:
    state = {name: tensor.clone() for name, tensor in chained.state_dict().items()}
    twin = structural_twin(chained)
    with torch.inference_mode():
        expected = twin(pictures[0])
        found = equalize(twin, {"second", "third", "after_up", "mlp.4"}, lambda: twin(pictures[0]), expected)
        assert found == {readers[0]: maker for maker, readers in PAIRS}
        for x in pictures:
            output = chained(x)
            assert float((twin(x) - output).abs().max() / output.abs().max()) < 1e-4
    for maker, (reader,) in PAIRS:
        made, read = twin.get_submodule(maker), twin.get_submodule(reader)
        reach = made.weight.abs() if maker == "factors" else reach_of_outputs(made.weight, Layout.of(made))
        assert torch.allclose(reach, reach_of_inputs(read.weight, Layout.of(read)), rtol=1e-2)
    for name, tensor in chained.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_only_what_is_asked_for_is_touched(chained: nn.Module, pictures: list[torch.Tensor]) -> None:
    twin = structural_twin(chained)
    with torch.inference_mode():
        assert equalize(twin, {"third"}, lambda: twin(pictures[0]), twin(pictures[0])) == {"third": "factors"}
    changed = {n for n, t in twin.state_dict().items() if not torch.equal(t, chained.state_dict()[n])}
    assert changed == {"factors.weight", "factors.bias", "third.weight"}


class Peeking(Between):
    """Looks at a layer's weight, which no pass of tensors through functions tells."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.a.weight.detach().abs().sum().item()


def test_a_pair_that_would_change_the_output_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    network, inputs = Peeking(nn.ReLU()).eval(), torch.randn(1, 1, 6, 6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        assert equalize(network, {"b"}, lambda: network(inputs), network(inputs)) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_maker_with_two_readers_serves_both() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return self.a(y) + self.b(y)

    torch.manual_seed(0)
    network, inputs = Fork().eval(), torch.randn(7, 6)
    nn.init.uniform_(network.norm.weight, 0.1, 5.0)
    assert chains_of(network, inputs) == {("norm", ("a", "b"))}
    with torch.inference_mode():
        expected = network(inputs)
        assert equalize(network, {"a"}, lambda: network(inputs), expected) == {}
        assert equalize(network, {"a", "b"}, lambda: network(inputs), expected) == {"a": "norm", "b": "norm"}
        assert torch.allclose(network(inputs), expected, rtol=1e-4, atol=1e-5)
        both = torch.stack([network.a.weight.abs().amax(0), network.b.weight.abs().amax(0)]).amax(0)
        assert torch.allclose(network.norm.weight, both, rtol=1e-2)


def living_by_its_bias(seed: int) -> nn.Module:
    """Two convolutions; some channels of the first have weights that are nearly off, and a bias like the others'."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    with torch.no_grad():
        network[0].weight[torch.randperm(8)[: 1 + seed % 3]] *= 1e-6
        network[0].weight *= 10 ** float(torch.empty(()).uniform_(-2, 2))
        network[0].bias.uniform_(0.2, 0.7)
    return network


@pytest.mark.parametrize("seed", range(6))
def test_no_channel_is_blown_up_by_its_bias(seed: int) -> None:
    network, inputs = living_by_its_bias(seed), torch.randn(2, 2, 12, 12)
    with torch.inference_mode():
        expected, before = network(inputs), network[:2](inputs).amax((0, 2, 3))
        assert equalize(network, {"2"}, lambda: network(inputs), expected) == {"2": "0"}
        assert float((network(inputs) - expected).abs().max() / expected.abs().max()) < 1e-4
        after = network[:2](inputs).amax((0, 2, 3))
    shared = (before / after).median()  # by what the middle channel is divided
    assert (after * shared).max() <= before.max() * 1.01
    assert ((before / after) / shared).min() < 0.999  # small channels are made larger all the same


@pytest.mark.parametrize("seed", range(6))
def test_what_is_equalized_rounds_no_worse_for_its_biases(seed: int) -> None:
    network, inputs = living_by_its_bias(seed), torch.randn(2, 2, 12, 12)
    model, batches = from_module(network, name="two layers"), [CalibrationBatch((inputs,))]
    errors = {}
    for wanted in (None, Rewrites(equalization=True)):
        recipe = replace(recipe_of_study(8, 4), rewrites={"*": wanted})
        made = quantize(model, batches, recipe=recipe)
        with torch.inference_mode():
            expected = network(inputs)
            errors[wanted] = float((made.model.network(inputs) - expected).norm())
    plain, balanced = errors.values()
    assert balanced < 1.25 * plain
