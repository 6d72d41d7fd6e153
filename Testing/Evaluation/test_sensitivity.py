"""One layer at a time: the effects are those of whole passes, computed in a part of the time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medquant import IntWeights, PerTensor
from medquant.errors import Cancelled, UserError
from medquant.evaluation.replay import Replay
from medquant.evaluation.sensitivity import rounded_weight, sensitivity
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module


class Block(nn.Module):
    """Writes into its own input's sum in place, as networks do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = torch.relu_(self.first(x))
        return self.second(y).add_(x)


class Net(nn.Module):
    """A stem, a list of blocks, a transposed convolution, a head that is called twice, and a layer that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Conv2d(4, 4, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.up(x)
        return self.head(torch.relu(self.head(x)))


@pytest.fixture
def model() -> TorchModel:
    """The network as a model."""
    torch.manual_seed(0)
    return from_module(Net(), name="net")


@pytest.fixture
def batches() -> list[CalibrationBatch]:
    """Two inputs."""
    generator = torch.Generator().manual_seed(1)
    return [CalibrationBatch((torch.randn(1, 1, 12, 12, generator=generator),)) for _ in range(2)]


def _effect_of_a_whole_pass(model: TorchModel, batches: list[CalibrationBatch], layer: str, bits: IntWeights) -> float:
    module = model.network.get_submodule(layer)
    kept = module.weight.detach().clone()
    errors = []
    with torch.no_grad():
        for batch in batches:
            expected = model.network(*batch.inputs)
            module.weight.copy_(rounded_weight(module, bits))
            errors.append(float((model.network(*batch.inputs) - expected).norm() / expected.norm()))
            module.weight.copy_(kept)
    return float(np.mean(errors))


@pytest.mark.parametrize("weights", [IntWeights(), IntWeights(granularity=PerTensor())])
def test_effects_are_those_of_whole_passes(
    model: TorchModel, batches: list[CalibrationBatch], weights: IntWeights
) -> None:
    state = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    told = []
    found = sensitivity(model, batches, bits=(2, 8), weights=weights, partial=told.append)
    names = ["stem.0", *(f"blocks.{n}.{part}" for n in range(3) for part in ("first", "second")), "up", "head"]
    assert list(found.layers) == names
    assert [cell.bits for cell in found.cells] == [2] * len(names) + [8] * len(names)
    assert told == list(found.cells)
    for cell in found.cells:
        grid = IntWeights(bits=cell.bits, granularity=weights.granularity)
        expected = _effect_of_a_whole_pass(model, batches, cell.layer, grid)
        assert cell.effect == pytest.approx(expected, rel=1e-5), cell
        assert cell.shape == tuple(model.network.get_submodule(cell.layer).weight.shape)
    assert sum(cell.share for cell in found.cells if cell.bits == 2) == pytest.approx(1.0)
    worst = max((cell for cell in found.cells if cell.bits == 2), key=lambda cell: cell.effect)
    assert found.worst(1) == (worst.layer,)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert all("forward" not in module.__dict__ for module in model.network.modules())


def test_what_lies_before_the_change_is_not_computed_again(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    network = model.network
    replay = Replay(network)
    with torch.inference_mode():
        expected = replay.record(lambda: network(*batches[0].inputs))
        for layer, passed in (("stem.0", 3), ("blocks.1.first", 2), ("blocks.2.second", 1), ("head", 0)):
            for block in network.blocks:
                block.calls = 0
            assert torch.equal(replay.again(layer, lambda: network(*batches[0].inputs)), expected)
            assert sum(block.calls for block in network.blocks) == passed
    assert replay.part_of_a_pass("stem.0") > replay.part_of_a_pass("head") > 0


def test_outputs_that_cannot_be_kept_are_computed_again(
    model: TorchModel, batches: list[CalibrationBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    import medquant.evaluation.replay as module

    whole = sensitivity(model, batches, bits=(4,))
    monkeypatch.setattr(module, "HELD_MB", 0.01)
    assert [cell.effect for cell in sensitivity(model, batches, bits=(4,)).cells] == [
        cell.effect for cell in whole.cells
    ]


def test_it_stops_and_leaves_the_network_as_it_was(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    told: list[object] = []
    with pytest.raises(Cancelled):
        sensitivity(model, batches, partial=told.append, cancelled=lambda: len(told) >= 3)
    assert len(told) == 3
    assert all("forward" not in module.__dict__ for module in model.network.modules())
    assert all(not module._forward_pre_hooks for module in model.network.modules())


def test_progress_grows_and_ends(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    seen = []
    sensitivity(model, batches, bits=(2,), progress=seen.append)
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any("layer 3 of 9" in event.message for event in seen)


def test_without_inputs_nothing_can_be_said(model: TorchModel) -> None:
    with pytest.raises(UserError, match="Choose other slices"):
        sensitivity(model, [])
