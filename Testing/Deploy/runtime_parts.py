"""The runtimes that are installed here, a small network for them, and how what they compute is compared."""

from __future__ import annotations

import torch
from torch import nn

from medquant.deploy.runtime import RUNTIMES
from medquant.models.base import Part

INSTALLED = [name for name in RUNTIMES if RUNTIMES[name].version() is not None and name != "pytorch-compiled"]
ON_INTEGERS = [name for name in INSTALLED if name != "pytorch"]


class UNet(nn.Module):
    """Two levels with instance norm, a transposed convolution and a skip connection, as nnU-Net has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self._level(1, 16, 1)
        self.second = self._level(16, 24, 2)
        self.up = nn.ConvTranspose3d(24, 16, 2, 2)
        self.last = nn.Sequential(self._level(32, 16, 1), nn.Conv3d(16, 3, 1))

    def _level(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        norm = nn.InstanceNorm3d(outputs, affine=True)
        return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, 1), norm, nn.LeakyReLU(0.01))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.first(image)
        return self.last(torch.cat([self.up(self.second(skip)), skip], 1))


def part_of(network: nn.Module, image: torch.Tensor) -> Part:
    """A network from image to logits."""
    return Part(network, {"image": image}, ("logits",))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """By how much of its size a tensor differs from what is expected."""
    return float((found - expected).norm() / expected.norm())


def compiled(name: str, part: Part, precision: str, **options: object) -> object:
    """A part by a runtime, on FP32 outside the integers, so that nothing but the integers' own rounding is left."""
    if name == "openvino" and precision == "int8":
        options["rest"] = "fp32"
    return RUNTIMES[name].compile(part, precision=precision, threads=1, **options)
