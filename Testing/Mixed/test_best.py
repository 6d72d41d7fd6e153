"""The most precise model of a size, on a network whose layers' effects do not add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medquant.errors import UserError
from medquant.mixed.best import CLOSE, Candidate, best_of_size, size_of, steadiest
from medquant.mixed.chain import Allocation
from medquant.mixed.families import Plan
from medquant.mixed.held_out import HeldOut, parted
from medquant.mixed.plan import plan
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module
from medquant.progress import Progress
from medquant.recipe import Recipe
from medquant.sensitivity.change import Change

RTN = Recipe(method="rtn")


class Pair(nn.Module):
    """Two layers of equal weights that cancel: rounded alike they do so still, rounded alone each does great harm."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Conv2d(4, 32, 3, padding=1)
        self.one = nn.Conv2d(4, 32, 7, padding=3)
        self.other = nn.Conv2d(4, 32, 7, padding=3)
        self.other.load_state_dict(self.one.state_dict())
        self.last = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.base(x) + 20 * (self.one(x) - self.other(x)))


@pytest.fixture(scope="module")
def parts() -> tuple[TorchModel, list[CalibrationBatch]]:
    """The network and six inputs."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    batches = [CalibrationBatch((torch.randn(1, 4, 24, 24, generator=generator),)) for _ in range(6)]
    return from_module(Pair(), name="pair"), batches


@pytest.fixture(scope="module")
def planned(parts: tuple[TorchModel, list[CalibrationBatch]]) -> Plan:
    """Its layers' effects."""
    return plan(*parts, recipe=RTN)


@pytest.fixture(scope="module")
def held_out(parts: tuple[TorchModel, list[CalibrationBatch]]) -> HeldOut:
    """Four inputs calibrate, two check."""
    model, batches = parts
    return HeldOut(model, *parted(batches), RTN)


def _bytes(planned: Plan, held_out: HeldOut, bits: int) -> int:
    """Room for a model that gives one of the pair, but not both, a step more than `bits`: that is 784 bytes."""
    options = planned.measured[bits]
    stored = {name: {o.bits: o.stored_bits for o in found} for name, found in options.items()}
    size = sum(sizes[bits] for sizes in stored.values()) + stored["one"][bits + 1] - stored["one"][bits]
    raised = next(one for one in planned.candidates(size) if len({one.of()["one"], one.of()["other"]}) == 2)
    return size_of(held_out.quantized(raised, Progress())) + 300  # names of layers take room as well


def test_evenly_spread_bits_win_where_effects_do_not_add_up(planned: Plan, held_out: HeldOut) -> None:
    told: list[Candidate] = []
    allowed = _bytes(planned, held_out, 2)
    best = best_of_size(planned, held_out, allowed, tried=told.append)
    bits = best.allocation.of()
    assert bits["one"] == bits["other"], "they cancel only where they are rounded alike"
    by_sum = min(told, key=lambda one: one.allocation.effect)
    assert by_sum.allocation.of()["one"] != by_sum.allocation.of()["other"], "what the sum of effects would choose"
    assert best.change.dsc > by_sum.change.dsc + 0.02
    assert all(one.bytes_on_disk <= allowed for one in told) and best in told


def test_what_does_no_good_is_left_unspent(planned: Plan, held_out: HeldOut) -> None:
    told: list[Candidate] = []
    even = planned.even(8 * _bytes(planned, held_out, 3))
    allowed = size_of(held_out.quantized(even, Progress())) + 400
    best = best_of_size(planned, held_out, allowed, tried=told.append)
    (same,) = (one for one in told if one.allocation.key == even.key)
    assert best.allocation.bits == even.bits or same.change.dsc < max(one.change.dsc for one in told) - CLOSE


def test_the_same_is_found_again(planned: Plan, held_out: HeldOut) -> None:
    allowed = _bytes(planned, held_out, 2)
    first, second = (best_of_size(planned, held_out, allowed) for _ in range(2))
    assert (first.allocation, first.change) == (second.allocation, second.change)


def test_a_size_that_nothing_has_is_said(planned: Plan, held_out: HeldOut) -> None:
    with pytest.raises(UserError, match="as small as 100 bytes"):
        best_of_size(planned, held_out, 100)


def _candidate(dsc: float, *bits: int) -> Candidate:
    return Candidate(Allocation(tuple(zip("abc", bits)), sum(bits), 0.0), sum(bits), Change(0.0, 0.0, dsc))


def test_of_equals_the_more_even_one_is_taken() -> None:
    even, odd, poor = _candidate(0.98, 3, 3, 3), _candidate(0.9804, 2, 3, 4), _candidate(0.97, 2, 2, 2)
    for order in ([even, odd, poor], [poor, odd, even]):
        assert steadiest(order) is even
    assert steadiest([even, clear := _candidate(0.99, 2, 2, 8), poor]) is clear
