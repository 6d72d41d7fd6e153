"""Skip connections on integers: one grid for both readers, rounded before they are joined, the same numbers."""

from __future__ import annotations

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.deploy.openvino_joins import round_before_joins
from medquant.deploy.openvino_program import openvino_model
from medquant.input_grid import InputGrid
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe
from medquant.shared_inputs import SeenInputs


class SmallUNet(nn.Module):
    """One level down and up again; the skip connection is read by `down` and, joined, by `join`."""

    def __init__(self, *, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.enter = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(0.01))
        self.down = nn.Sequential(nn.Conv3d(8, 12, 3, 2, 1), nn.InstanceNorm3d(12, affine=True), nn.LeakyReLU(0.01))
        self.up = nn.ConvTranspose3d(12, 8, 2, 2)
        self.join = nn.Conv3d(16 if axis == 1 else 8, 8, 3, padding=1)
        self.head = nn.Conv3d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.enter(x)
        joined = torch.cat((self.up(self.down(skip)), skip), self.axis)
        return self.head(torch.relu(self.join(joined)))


def quantized(network: nn.Module, activations: IntActivations, **recipe: object) -> QuantizedModel:
    generator = torch.Generator().manual_seed(2)
    inputs = [CalibrationBatch((torch.randn(1, 1, 12, 16, 16, generator=generator),)) for _ in range(2)]
    model = from_module(network.eval(), name="small", roi_size=(12, 16, 16))
    recipe = {"method": "rtn", "calibration": CalibrationSettings(sequential=False), **recipe}
    return quantize(model, inputs, recipe=Recipe(weights=IntWeights(8), activations=activations, **recipe))


@pytest.fixture(scope="module")
def small_unet() -> nn.Module:
    torch.manual_seed(3)
    return SmallUNet().eval()


def sources(node: openvino.Node) -> list[openvino.Node]:
    return [port.get_source_output().get_node() for port in node.inputs()]


def joins(model: openvino.Model) -> list[openvino.Node]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "Concat"]


def test_a_skip_connection_is_rounded_once(small_unet: nn.Module) -> None:
    found = quantized(small_unet, IntActivations(8, symmetric=True))
    down, join = found.model.network.down[0], found.model.network.join
    assert join.input_quantizer.scale == down.input_quantizer.scale
    assert join.input_quantizer.zero == down.input_quantizer.zero
    own = torch.ones(8) if down.input_divisor is None else down.input_divisor
    torch.testing.assert_close(join.input_divisor[8:], own)

    part = found.model.parts()["network"]
    model = openvino_model(part)
    (joined,) = joins(model)
    above, skip = sources(joined)
    assert [node.get_type_name() for node in (above, skip)] == ["FakeQuantize"] * 2
    readers = {port.get_node().get_type_name() for port in skip.output(0).get_target_inputs()}
    assert readers == {"Concat", "Convolution"}
    assert {port.get_node().get_type_name() for port in joined.output(0).get_target_inputs()} == {"Convolution"}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("equalize", [False, True])
def test_the_numbers_stay(small_unet: nn.Module, symmetric: bool, equalize: bool) -> None:
    found = quantized(small_unet, IntActivations(8, symmetric=symmetric, equalize=equalize))
    assert found.model.network.up.input_quantizer.symmetric, "transposed convolutions take no zero point"
    model = openvino_model(found.model.parts()["network"])
    (joined,) = joins(model)
    assert [node.get_type_name() for node in sources(joined)] == ["FakeQuantize"] * 2
    x = torch.randn(1, 1, 12, 16, 16, generator=torch.Generator().manual_seed(5))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.inference_mode():
        expected = found.model.network(x).numpy()
    error = np.abs(compiled([x.numpy()])[0] - expected)
    assert error.mean() < 2e-3 * np.abs(expected).max()


def test_a_grid_of_its_own_without_factors(small_unet: nn.Module) -> None:
    plain = quantized(small_unet, IntActivations(8, equalize=False))
    join, down = plain.model.network.join, plain.model.network.down[0]
    assert join.input_divisor is None
    assert join.input_quantizer.scale != down.input_quantizer.scale
    (joined,) = joins(openvino_model(plain.model.parts()["network"]))
    _, skip = sources(joined)
    assert len(skip.output(0).get_target_inputs()) == 1, "the other reader has a grid of its own"


def test_other_joins_stay(small_unet: nn.Module) -> None:
    along_rows = quantized(SmallUNet(axis=3), IntActivations(8))
    (joined,) = joins(openvino_model(along_rows.model.parts()["network"]))
    assert not any(node.get_type_name() == "FakeQuantize" for node in sources(joined))
    floating = quantized(small_unet, IntActivations(8)).model.parts()["network"]
    (joined,) = joins(openvino_model(floating, integers=False))
    assert not any(node.get_type_name() == "FakeQuantize" for node in sources(joined))


def test_a_join_that_something_else_reads_stays() -> None:
    class Twice(SmallUNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = self.enter(x)
            joined = torch.cat((self.up(self.down(skip)), skip), 1)
            return self.head(torch.relu(self.join(joined)) + joined[:, :8])

    (joined,) = joins(openvino_model(quantized(Twice(), IntActivations(8)).model.parts()["network"]))
    assert not any(node.get_type_name() == "FakeQuantize" for node in sources(joined))


def test_a_join_that_two_layers_round() -> None:
    """A residual block: a convolution and its shortcut read what was joined."""

    class Residual(SmallUNet):
        def __init__(self) -> None:
            super().__init__()
            self.shortcut = nn.Conv3d(16, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = self.enter(x)
            joined = torch.cat((self.up(self.down(skip)), skip), 1)
            return self.head(torch.relu(self.join(joined) + self.shortcut(joined)))

    torch.manual_seed(5)
    found = quantized(Residual(), IntActivations(8, symmetric=True))
    model = openvino_model(found.model.parts()["network"])
    assert joins(model)
    for joined in joins(model):
        assert [node.get_type_name() for node in sources(joined)] == ["FakeQuantize"] * 2
    x = torch.randn(1, 1, 12, 16, 16, generator=torch.Generator().manual_seed(5))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.inference_mode():
        expected = found.model.network(x).numpy()
    assert np.abs(compiled([x.numpy()])[0] - expected).mean() < 2e-3 * np.abs(expected).max()


def test_nothing_is_done_twice(small_unet: nn.Module) -> None:
    model = openvino_model(quantized(small_unet, IntActivations(8)).model.parts()["network"])
    before = [node.get_type_name() for node in model.get_ordered_ops()]
    round_before_joins(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == before


def test_inputs_are_known_again() -> None:
    generator = torch.Generator().manual_seed(0)
    skip, other = (torch.randn(1, 4, 6, 5, 5, generator=generator) for _ in range(2))
    seen, first, second = SeenInputs(), InputGrid(torch.ones(4)), InputGrid(torch.ones(2))
    seen.add(skip, first)
    seen.add(skip[:, 1:3], second)
    joined = torch.cat((other, skip), 1)
    channels, grid = seen.part_of(joined)
    assert (channels, grid) == (slice(4, 8), first), "the larger of the two"
    assert seen.part_of(other) is None
    assert seen.part_of(joined[:, :, :3]) is None, "of another size"
    assert seen.part_of(joined + 1e-6) is None
