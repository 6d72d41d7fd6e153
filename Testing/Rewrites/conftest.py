"""A network with a chain of every kind, and layers of every kind with an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional

from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import Recipe


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Chained(nn.Module):
    """Pairs through a plain function, a norm with factors and one without, a sum, a skip, GELU, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.factors = nn.InstanceNorm2d(12, affine=True)
        self.third = nn.Conv2d(12, 8, 1)
        self.without = nn.InstanceNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.after_up = nn.Conv2d(8, 8, 3, padding=1)
        self.summed = nn.Conv2d(8, 8, 1)
        self.mlp = nn.Sequential(
            nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 8)
        )
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.first(x), 0.1)
        x = functional.relu(self.factors(self.second(x)))
        x = self.without(self.third(x))
        x = functional.max_pool2d(functional.relu_(self.up(x)), 2)
        x = self.after_up(x)
        y = self.summed(x) + x
        y = self.mlp(y.movedim(1, -1)).movedim(-1, 1)
        return self.head(torch.cat([y[:, :4], x[:, 4:]], 1))


@pytest.fixture
def chained() -> nn.Module:
    """The network, with channels of very different reach, as after training."""
    torch.manual_seed(0)
    network = Chained().eval()
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and name != "head":
                module.weight.mul_(
                    torch.logspace(-1, 1, len(module.weight)).reshape(-1, *[1] * (module.weight.ndim - 1))
                )
        network.factors.weight.copy_(torch.logspace(-1.0, 1.0, 12))
        network.factors.bias.normal_()
    return network


@pytest.fixture
def pictures() -> list[torch.Tensor]:
    """Three inputs (1, 1, 16, 16)."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 1, 16, 16, generator=generator) for _ in range(3)]


@pytest.fixture(scope="session")
def quantized() -> Callable[..., QuantizedModel]:
    """(network, inputs, recipe, roi_size, options of quantize) -> the quantized model."""

    def made(
        network: nn.Module,
        inputs: Sequence[torch.Tensor],
        recipe: Recipe,
        roi_size: tuple[int, ...] | None = None,
        **options: object,
    ) -> QuantizedModel:
        batches = [CalibrationBatch((x,)) for x in inputs]
        return quantize(from_module(network, name="small", roi_size=roi_size), batches, recipe=recipe, **options)

    return made
