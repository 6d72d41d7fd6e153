"""The smallest model that is still safe, on a small network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medquant.errors import Cancelled, UserError
from medquant.mixed.chain import chain
from medquant.mixed.held_out import Tried
from medquant.mixed.plan import plan, recipe_for
from medquant.mixed.search import TRIES, SafeModel, Tolerance, smallest_safe_model
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.recipe import Recipe
from medquant.sensitivity.change import Change
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding


class Net(nn.Module):
    """Three convolutions; the middle one hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(x + 0.01 * self.middle(x))


@pytest.fixture(scope="module")
def model() -> TorchModel:
    """The network as a model."""
    torch.manual_seed(0)
    return from_module(Net(), name="net")


@pytest.fixture(scope="module")
def batches() -> list[CalibrationBatch]:
    """Four inputs."""
    generator = torch.Generator().manual_seed(1)
    return [CalibrationBatch((torch.randn(1, 1, 24, 24, generator=generator),)) for _ in range(4)]


RTN = Recipe(method="rtn")


def _found(model: TorchModel, batches: list[CalibrationBatch], **options: object) -> SafeModel:
    return smallest_safe_model(model, batches, recipe=RTN, **options)


def test_what_matters_gets_its_bits_first(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    order = chain(plan(model, batches, recipe=RTN).measured[2])
    assert set(order[0].of().values()) == {2} and order[-1].effect < 0.05 * order[0].effect
    raised = [next(n for n, step in enumerate(order) if step.of()[name] > 2) for name in ("first", "middle", "last")]
    assert raised[1] == max(raised)


def test_a_recipe_gives_each_layer_its_bits(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    planned = plan(model, batches, recipe=RTN)
    for step in (one for size in planned.sizes[::4] for one in planned.candidates(size)):
        made = quantize(model, batches, recipe=recipe_for(step, RTN))
        assert {layer.name: layer.bits for layer in made.report.layers} == step.of()
        assert sum(layer.effective_bits * torch.Size(layer.shape).numel() for layer in made.report.layers) == (
            pytest.approx(step.stored_bits, rel=0.02)
        )


def test_effects_are_those_on_what_measures(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    planned = plan(model, batches[:2], measured_on=batches[2:], recipe=RTN, bits=(2, 4))
    found = sensitivity(model, batches[:2], measured_on=batches[2:], roundings=[Rounding(2), Rounding(4)], recipe=RTN)
    effects = {(cell.layer, cell.rounding.weights): cell.change.divergence for cell in found.cells}
    sizes = {(cell.layer, cell.rounding.weights): cell.stored_bits for cell in found.cells}
    for nominal, layers in planned.measured.items():
        for name, options in layers.items():
            assert [one.bits for one in options] == [bits for bits in (2, 4) if bits >= nominal]
            for one in options:
                assert one.effect == pytest.approx(effects[name, one.bits], rel=0.05, abs=1e-9)
                if one.bits == nominal:
                    assert one.stored_bits == sizes[name, one.bits]
    half = plan(model, batches, recipe=RTN, bits=(2, 4))
    same = plan(model, batches[::2], measured_on=batches[1:2], recipe=RTN, bits=(2, 4))
    assert half.measured == same.measured, "every other one calibrates, and one of the others measures"


@pytest.mark.parametrize("least", [0.8, 0.95, 0.99])
def test_it_is_safe_and_no_smaller_one_that_was_tried_is(
    model: TorchModel, batches: list[CalibrationBatch], least: float
) -> None:
    told: list[Tried] = []
    found = _found(model, batches, tolerance=Tolerance(least), tried=told.append)
    assert found.safe and least <= found.change.dsc and found.change.worst_dsc <= found.change.dsc
    assert tuple(told) == found.tried
    effective = found.quantized.report.effective_bits
    assert effective == min(one.effective_bits for one in told if one.safe)
    assert all(not one.safe for one in told if one.effective_bits < effective)
    assert {layer.name: layer.bits for layer in found.quantized.report.layers} == found.allocation.of()


def test_a_looser_tolerance_gives_a_smaller_model(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    sizes = [
        _found(model, batches, tolerance=Tolerance(least)).quantized.report.effective_bits for least in (0.7, 0.9, 0.98)
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_volumes_count_where_asked(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    loose = _found(model, batches, tolerance=Tolerance(0.8))
    strict = _found(model, batches, tolerance=Tolerance(0.8, volume_change=0.01))
    assert strict.change.volume_change <= 0.01
    assert strict.quantized.report.effective_bits >= loose.quantized.report.effective_bits


def test_a_scan_that_is_segmented_has_the_last_word(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    asked = []

    def verify(quantized: object) -> Change:
        asked.append(quantized)
        return Change(0.0, 0.0, 0.5, worst_dsc=0.25)

    found = _found(model, batches, tolerance=Tolerance(0.9), verify=verify)
    assert asked and not found.safe and (found.change.dsc, found.change.worst_dsc) == (0.5, 0.25)
    assert found.quantized.report.effective_bits == max(one.effective_bits for one in found.tried)


def test_where_nothing_is_safe_the_search_ends_soon(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    told: list[Tried] = []
    found = _found(model, batches, tolerance=Tolerance(1.0, volume_change=1e-12), tried=told.append)
    sizes = plan(model, batches[::2], recipe=RTN).sizes
    assert not found.safe and 1 < len(told) <= TRIES * len(sizes).bit_length()


def test_the_model_stays_as_it_is(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    with pytest.raises(Cancelled):
        asked = iter(range(10_000))
        _found(model, batches, cancelled=lambda: next(asked) > 200)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_cannot_be_searched_is_said(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    with pytest.raises(UserError, match="at least two"):
        _found(model, batches[:1])
    with pytest.raises(UserError, match="between 0 and 1"):
        Tolerance(1.5)
    with pytest.raises(UserError, match="positive"):
        Tolerance(0.9, volume_change=-1)
