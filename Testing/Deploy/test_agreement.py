"""How far a runtime may be from the engine where few levels let the last bits decide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.deploy.agreement import EXACT, ROUNDED, Reference, relative_difference, tipping
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.runtime import Session
from medquant.errors import UserError
from medquant.models.base import CalibrationBatch, Part
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

DEPTH = 14


def _deep() -> nn.Module:
    """Layers that keep the size of what flows, so that an error lives on and grows."""
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1)]
    for _ in range(DEPTH):
        layers += [nn.InstanceNorm2d(8), nn.LeakyReLU(0.5), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.InstanceNorm2d(8), nn.Conv2d(8, 3, 1))


def _quantized(bits: int) -> TorchModel:
    model = from_module(_deep(), name="deep", roi_size=(32, 32))
    generator = torch.Generator().manual_seed(0)
    batches = [CalibrationBatch((torch.randn(1, 1, 32, 32, generator=generator),)) for _ in range(2)]
    recipe = Recipe(weights=IntWeights(bits), method="rtn", activations=IntActivations(bits))
    return quantize(model, batches, recipe=recipe).model


@pytest.fixture(scope="module")
def part() -> Part:
    """The network with 4-bit weights and inputs."""
    (part,) = _quantized(4).parts().values()
    return part


def _apart(part: Part, session: Session) -> float:
    (x,) = part.inputs.values()
    with torch.inference_mode():
        return relative_difference(session(x).numpy(), part.module(x).numpy())


def test_the_last_bits_tip_a_network_of_few_levels_and_no_other(part: Part) -> None:
    for one, tipped in ((part, True), (next(iter(_quantized(8).parts().values())), False)):
        (x,) = one.inputs.values()
        with torch.inference_mode():
            found = tipping(one.module, [x], [one.module(x).numpy()])
            assert found == tipping(one.module, [x], [one.module(x).numpy()]), "the same each time"
        assert (found > ROUNDED) == tipped
    plain = _deep().eval()
    with torch.inference_mode():
        assert tipping(plain, [x], [plain(x).numpy()]) < EXACT


def test_kernels_that_differ_no_more_than_the_network_from_itself_are_used(part: Part) -> None:
    session = OpenVino().compile(part, precision="int8", rest="fp32")
    assert session.integer_layers == session.quantized_layers == DEPTH + 2
    assert _apart(part, session) > ROUNDED, "else this shows nothing"
    assert Reference({"network": part}).check("network", session)


class _Wrong:
    """What a runtime with a fault would be."""

    runtime, precision = "openvino", "int8"

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._session(x).roll(1, dims=-1)


def test_another_result_is_refused_all_the_same(part: Part) -> None:
    wrong = _Wrong(OpenVino().compile(part, precision="int8", rest="fp32"))
    with pytest.raises(UserError, match="more than rounding explains"):
        Reference({"network": part}).check("network", wrong)
