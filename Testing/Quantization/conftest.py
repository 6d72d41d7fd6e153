"""Small networks and a short way to quantize them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn
from transformers import SamConfig

from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe

settings.register_profile("room", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
settings.load_profile("room")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices of a few hundred rows are slower on several threads, much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class SmallUNet(nn.Module):
    """Two levels with batch norms, a strided convolution, a transposed one, a concatenated skip and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.1, inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.InstanceNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Conv2d(12, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.enter(x)
        below = self.middle(self.down(skip))
        return self.head(self.out(torch.cat([self.up(below), skip], 1)))


def _small_unet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = SmallUNet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # As after training: none of the statistics is trivial.
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 3.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def _pictures(count: int = 2, size: int = 24, seed: int = 1) -> list[torch.Tensor]:
    """Smooth random pictures (1, 1, size, size) with a bright blob."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, size // 4, size // 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    blob = ((y - size / 2) ** 2 + (x - size / 3) ** 2 < (size / 5) ** 2).float()
    return [picture[None] for picture in smooth + 2 * blob + 0.1 * torch.randn(smooth.shape, generator=generator)]


def _quantized(
    network: nn.Module, inputs: Sequence[torch.Tensor], bits: int | IntWeights = 4, **options: Any
) -> QuantizedModel:
    weights = IntWeights(bits=bits) if isinstance(bits, int) else bits
    recipe = options.pop("recipe", None) or Recipe(weights=weights, **options.pop("settings", {}))
    batches = [CalibrationBatch((x,)) for x in inputs]
    return quantize(from_module(network, name="small"), batches, recipe=recipe, **options)


@pytest.fixture(scope="session")
def small_unet() -> Callable[..., nn.Module]:
    """Makes a small trained-looking U-Net for pictures of one channel, (seed) -> network."""
    return _small_unet


@pytest.fixture(scope="session")
def pictures() -> Callable[..., list[torch.Tensor]]:
    """Makes input pictures, (count, size, seed) -> tensors (1, 1, size, size)."""
    return _pictures


@pytest.fixture(scope="session")
def quantized() -> Callable[..., QuantizedModel]:
    """Quantizes a network on inputs, (network, inputs, bits, settings={...} of the recipe, options of quantize)."""
    return _quantized


@pytest.fixture
def tiny_sam() -> SamConfig:
    """A SAM with one windowed and one global block, whose windows do not fill the 6 x 6 tokens evenly."""
    return SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 24, "image_size": 48,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "output_channels": 16, "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 48, "patch_size": 8},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 20, "iou_head_hidden_dim": 12, "num_attention_heads": 2},
    )  # fmt: skip
