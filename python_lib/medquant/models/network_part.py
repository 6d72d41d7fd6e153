"""A network of patches as one part."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medquant.models.base import Part, device_of


class LogitsOnly(nn.Module):
    """A network whose first output is the logits; deep supervision's and other outputs after them are left out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        return first_output(self.network(patch))


def network_part(network: nn.Module, shape: tuple[int, ...] | None) -> dict[str, Part]:
    """The part "network" for patches of `shape` (1, channels, *spatial); None: the shape differs from scan to scan."""
    inputs = {}
    if shape is not None:
        patch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        inputs = {"patch": patch.to(device_of(network))}
    return {"network": Part(LogitsOnly(network).eval(), inputs, ("logits",))}


def first_output(output: Any) -> torch.Tensor:
    """The logits of a network that may also give deep supervision's or other outputs after them."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output
