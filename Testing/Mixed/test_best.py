"""The most precise model of a size, on a network whose layers' effects do not add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medquant.errors import UserError
from medquant.mixed.best import Candidate, best_of_size, size_of, steadiest
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
def folds(parts: tuple[TorchModel, list[CalibrationBatch]]) -> list[HeldOut]:
    """Four inputs calibrate and two check, then three of the others check."""
    model, batches = parts
    return [HeldOut(model, *parted(batches), RTN), HeldOut(model, batches[1::2], batches[::2], RTN)]


def _bytes(planned: Plan, folds: list[HeldOut], bits: int) -> int:
    """Room for a model that gives one of the pair, but not both, a step more than `bits`: that is 784 bytes."""
    options = planned.measured[bits]
    stored = {name: {o.bits: o.stored_bits for o in found} for name, found in options.items()}
    size = sum(sizes[bits] for sizes in stored.values()) + stored["one"][bits + 1] - stored["one"][bits]
    raised = next(one for one in planned.candidates(size) if len({one.of()["one"], one.of()["other"]}) == 2)
    return size_of(folds[0].quantized(raised, Progress())) + 300  # names of layers take room as well


def test_evenly_spread_bits_win_where_effects_do_not_add_up(planned: Plan, folds: list[HeldOut]) -> None:
    told: list[Candidate] = []
    allowed = _bytes(planned, folds, 2)
    best = best_of_size(planned, folds, allowed, tried=told.append)
    bits = best.allocation.of()
    assert bits["one"] == bits["other"], "they cancel only where they are rounded alike"
    by_sum = min(told, key=lambda one: one.allocation.effect)
    assert by_sum.allocation.of()["one"] != by_sum.allocation.of()["other"], "what the sum of effects would choose"
    assert best.divergence < 0.9 * by_sum.divergence and best.dsc > by_sum.dsc
    assert all(one.bytes_on_disk <= allowed for one in told) and best in told


@pytest.mark.parametrize("more", [64, 400])  # a file tells how long it took: its size is not known to the byte
def test_what_does_no_good_is_left_unspent(planned: Plan, folds: list[HeldOut], more: int) -> None:
    told: list[Candidate] = []
    even = planned.even(8 * _bytes(planned, folds, 3))
    allowed = size_of(folds[0].quantized(even, Progress())) + more
    best = best_of_size(planned, folds, allowed, tried=told.append)
    (same,) = (one for one in told if one.allocation.key == even.key)
    assert best.allocation.bits == even.bits or min(told, key=lambda one: one.divergence).beats(same)


def test_the_same_is_found_again(planned: Plan, folds: list[HeldOut]) -> None:
    allowed = _bytes(planned, folds, 2)
    first, second = (best_of_size(planned, folds, allowed) for _ in range(2))
    assert (first.allocation, first.changes) == (second.allocation, second.changes)


def test_a_size_that_nothing_has_is_said(planned: Plan, folds: list[HeldOut]) -> None:
    with pytest.raises(UserError, match="as small as 100 bytes"):
        best_of_size(planned, folds, 100)


def test_every_candidate_is_checked_by_every_fold(planned: Plan, folds: list[HeldOut]) -> None:
    told: list[Candidate] = []
    best_of_size(planned, folds, _bytes(planned, folds, 2), tried=told.append)
    for one in told:
        each = [change for fold in folds for change in fold.changes(fold.quantized(one.allocation, Progress()))]
        assert one.changes == tuple(each) and len(each) == 5
        assert one.dsc == pytest.approx(sum(change.dsc for change in each) / 5)


def _candidate(bits: tuple[int, ...], *divergences: float, dsc: float = 0.9) -> Candidate:
    allocation = Allocation(tuple(zip("abc", bits)), sum(bits), 0.0)
    return Candidate(allocation, sum(bits), tuple(Change(0.0, one, dsc) for one in divergences))


def test_of_equals_the_more_even_one_is_taken() -> None:
    even, odd = _candidate((3, 3, 3), 0.02, 0.04), _candidate((2, 3, 4), 0.0199, 0.0396)
    poor = _candidate((2, 2, 2), 0.03, 0.05)
    for order in ([even, odd, poor], [poor, odd, even]):
        assert steadiest(order) is even
    assert steadiest([even, clear := _candidate((2, 2, 8), 0.01, 0.03), poor]) is clear


def test_one_lucky_input_does_not_win() -> None:
    even, lucky = _candidate((3, 3, 3), 0.02, 0.02, 0.02, 0.08), _candidate((2, 3, 4), 0.02, 0.021, 0.02, 0.02)
    assert lucky.divergence < even.divergence and steadiest([even, lucky]) is even
    steady = _candidate((2, 3, 4), 0.01, 0.01, 0.01, 0.06)
    assert steadiest([even, steady]) is steady


def test_a_structure_of_a_few_voxels_does_not_decide() -> None:
    precise, lucky = _candidate((2, 2, 8), 0.01, 0.01, dsc=0.47), _candidate((2, 3, 4), 0.02, 0.02, dsc=0.98)
    assert steadiest([precise, lucky]) is precise


@pytest.mark.parametrize("extreme", [0.0, float("inf")])
def test_divergences_without_a_logarithm_are_compared(extreme: float) -> None:
    one, other = _candidate((2, 2, 8), extreme, extreme), _candidate((3, 3, 3), 0.02, 0.02)
    assert steadiest([one, other]) is (one if extreme == 0 else other)
    assert not one.beats(one)


def test_of_the_same_bits_the_more_precise_model_is_taken() -> None:
    made = [Allocation((("a", 4), ("b", 4)), 8, 0.0, nominal) for nominal in (3, 4, None, 2)]
    candidates = [Candidate(one, 8, (Change(0.0, 0.0, 0.98),)) for one in made]
    assert steadiest(candidates).allocation.nominal == 4
    assert steadiest(candidates[::-1]).allocation.nominal == 4
