"""Several inputs on their way through one network, halting together at each layer."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from medquant.errors import UserError
from medquant.lockstep import run_in_lockstep


class Branching(nn.Module):
    """Takes the other order of its layers where the input is negative; fails on infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (self.b, self.a) if float(x.sum()) < 0 else (self.a, self.b)
        x = self.c(second(first(x)))
        if torch.isinf(x).any():
            raise ArithmeticError("too large")
        return self.c(x)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> object:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    return dict(network.named_children())


def untouched(network: nn.Module) -> bool:
    return not any("forward" in module.__dict__ for module in network.modules())


def run(
    network: nn.Module,
    inputs: list[torch.Tensor],
    at_layer: Callable[[str, list[torch.Tensor]], list[Callable[[torch.Tensor], torch.Tensor]]],
) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = [torch.empty(0)] * len(inputs)

    def one(index: int) -> None:
        outputs[index] = network(inputs[index])

    run_in_lockstep(layers_of(network), [lambda i=i: one(i) for i in range(len(inputs))], at_layer)
    return outputs


def as_before(network: nn.Module) -> Callable[..., list[Callable[[torch.Tensor], torch.Tensor]]]:
    layers = layers_of(network)

    def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        layer = layers[name]
        return [lambda x: nn.functional.linear(x, layer.weight, layer.bias)] * len(inputs)

    return at_layer


@torch.inference_mode()
def test_every_input_sees_every_layer_once_and_outputs_are_the_networks_own() -> None:
    torch.manual_seed(0)
    network, inputs = Branching(), [torch.rand(2, 3) + i for i in range(4)]
    expected = [network(x) for x in inputs]
    seen: list[tuple[str, list[torch.Tensor]]] = []
    answer = as_before(network)

    def at_layer(name: str, arrived: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        seen.append((name, [x.clone() for x in arrived]))
        return answer(name, arrived)

    found = run(network, inputs, at_layer)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    # The second call of `c` is computed without halting.
    assert [name for name, _ in seen] == ["a", "b", "c"]
    for arrived, wanted in zip(seen[1][1], inputs):
        assert torch.equal(arrived, network.a(wanted))
    assert untouched(network)


def test_one_pass_in_all() -> None:
    passes = []

    class Entered(Branching):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes.append(1)
            return super().forward(x)

    network = Entered()
    run(network, [torch.ones(1, 3)] * 3, as_before(network))
    assert len(passes) == 3


def test_answers_hold_for_their_own_input_only_and_for_later_calls() -> None:
    network = Branching()

    def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        return [lambda x, add=10.0**i: x + add for i in range(len(inputs))]

    outputs = run(network, [torch.zeros(1, 3), torch.zeros(1, 3)], at_layer)
    assert outputs[0].unique().tolist() == [4.0] and outputs[1].unique().tolist() == [40.0]


def test_further_arguments_are_handed_on() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(1, 1, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(input=x, output_size=(9,))

    seen = []
    network = Up()

    def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[..., torch.Tensor]]:
        return [lambda x, output_size: seen.append(output_size) or x] * len(inputs)

    run(network, [torch.ones(1, 1, 4)], at_layer)
    assert seen == [(9,)]


def test_another_order_for_another_input_is_refused() -> None:
    network = Branching()
    with pytest.raises(UserError, match=r"same order.*sequential calibration turned off"):
        run(network, [torch.ones(1, 3), -torch.ones(1, 3)], as_before(network))
    assert untouched(network)


def test_an_input_that_ends_early_is_refused() -> None:
    class Short(Branching):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if float(x.sum()) < 0 else super().forward(x)

    network = Short()
    for inputs in ([torch.ones(1, 3), -torch.ones(1, 3)], [-torch.ones(1, 3), torch.ones(1, 3)]):
        with pytest.raises(UserError, match="same order"):
            run(network, inputs, as_before(network))
        assert untouched(network)


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_of_the_network_comes_through(where: int) -> None:
    network, inputs = Branching(), [torch.ones(1, 3), torch.ones(1, 3)]
    inputs[where] = torch.full((1, 3), torch.inf)
    with torch.no_grad():
        for layer in (network.a, network.b, network.c):
            layer.weight.copy_(torch.eye(3) + 1)
    with pytest.raises(ArithmeticError, match="too large"):
        run(network, inputs, as_before(network))
    assert untouched(network)


@pytest.mark.parametrize("stop_at", ["a", "b", "c"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_a_layer_is_worked_on_ends_everything(stop_at: str, error: type[BaseException]) -> None:
    network = Branching()
    answer = as_before(network)

    def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        if name == stop_at:
            raise error("enough")
        return answer(name, inputs)

    with pytest.raises(error, match="enough"):
        run(network, [torch.ones(1, 3)] * 3, at_layer)
    assert untouched(network)
    network(torch.ones(1, 3))


def test_a_network_that_swallows_exceptions_is_stopped_all_the_same() -> None:
    class Stubborn(Branching):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return super().forward(x)
            except Exception:
                return x

    def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run(Stubborn(), [torch.ones(1, 3)] * 2, at_layer)


def test_without_layers_the_runs_are_done_all_the_same() -> None:
    done = []
    run_in_lockstep({}, [lambda i=i: done.append(i) for i in range(3)], lambda name, inputs: [])
    assert done == [0, 1, 2]
