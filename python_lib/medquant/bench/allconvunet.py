"""A plain 3-D U-Net for abdominal CT with public weights, as a test bed for solvers.

It is the comparison network of Heinrich, Oktay and Bouteldja, "OBELISK-Net", Medical Image Analysis 2019: five strided
levels, trilinear upsampling, 883,740 parameters, raw HU in. The weights are read from the data folder, not shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medquant.imaging.volume import Volume
from medquant.models.orientation import Reorientation

SIDE = 144
"""The network's input is a cube of so many voxels."""
ORGANS = {
    1: "spleen",
    2: "pancreas",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "duodenum",
}
_ENCODER = (("0", 1, 5, 1), ("1", 5, 14, 2), ("11", 14, 14, 1), ("2", 14, 28, 2), ("22", 28, 28, 1), ("3", 28, 42, 2))
_ENCODER += (("33", 42, 42, 1), ("4", 42, 56, 2), ("44", 56, 56, 1), ("5", 56, 70, 2), ("55", 70, 70, 1))
_DECODER = (("6dU", 126, 56), ("6cU", 98, 42), ("6bU", 70, 28), ("6U", 42, 14), ("7U", 19, 9))
_SKIPS = ("44", "33", "22", "11", "0")


class AllConvUNet(nn.Module):
    """Input (1, 1, 144, 144, 144) in HU, output logits (1, 9, 144, 144, 144)."""

    def __init__(self) -> None:
        super().__init__()
        for name, inputs, outputs, stride in _ENCODER:
            self._add(name, inputs, outputs, stride)
        for name, inputs, outputs in _DECODER:
            self._add(name, inputs, outputs, 1)
        self.conv77U = nn.Conv3d(9, 9, 3, padding=1)

    def _add(self, name: str, inputs: int, outputs: int, stride: int) -> None:
        self.add_module(f"conv{name}", nn.Conv3d(inputs, outputs, 3, stride, 1))
        self.add_module(f"batch{name}", nn.BatchNorm3d(outputs))

    def _level(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"batch{name}")(self.get_submodule(f"conv{name}")(x))
        return functional.leaky_relu(x, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels: dict[str, torch.Tensor] = {}
        for name, *_ in _ENCODER:
            x = self._level(name, x)
            if name in _SKIPS:
                levels[name] = x
        for (name, *_), skip in zip(_DECODER, _SKIPS):
            x = _joined(x, levels.pop(skip))
            x = self._level(name, x)
        return self.conv77U(x)


def _joined(x: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """`x` as fine as `below`, and that after it; nothing else is held while the next layer waits for other passes."""
    x = functional.interpolate(x, size=below.shape[2:], mode="trilinear", align_corners=False)
    return torch.cat([x, below], 1)


def load(path: Path) -> AllConvUNet:
    """The network with trained weights."""
    network = AllConvUNet()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def to_network_axes(volume: Volume, array: np.ndarray | None = None) -> np.ndarray:
    """Array on the network's axes: left, anterior, inferior grow with the first, second and third index."""
    array = volume.array if array is None else array
    return np.ascontiguousarray(Reorientation.to(volume, "LAI").apply(array).T)


def to_cube(array: np.ndarray, box: tuple[slice, ...], *, labels: bool = False) -> torch.Tensor:
    """Cut `box` and resample it to (1, 1, 144, 144, 144)."""
    cut = torch.from_numpy(array[box].astype(np.float32))[None, None]
    if labels:
        return functional.interpolate(cut, size=(SIDE,) * 3, mode="nearest-exact")
    return functional.interpolate(cut, size=(SIDE,) * 3, mode="trilinear", align_corners=False)


def box_around(mask: np.ndarray, margin: tuple[int, int, int]) -> tuple[slice, ...]:
    """The bounding box of a mask, grown by `margin` voxels and cut to the array."""
    corners = np.nonzero(mask)
    return tuple(
        slice(max(int(c.min()) - m, 0), min(int(c.max()) + 1 + m, size))
        for c, m, size in zip(corners, margin, mask.shape)
    )
