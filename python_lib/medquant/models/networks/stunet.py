"""STU-Net: nnU-Net's U-shape of residual blocks, in four sizes.

Source: Huang et al., STU-Net: Scalable and Transferable Medical Image Segmentation Models, 2023 (arXiv 2304.06716).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

SIZES = {"small": (1, 16), "base": (1, 32), "large": (2, 64), "huge": (3, 96)}
"""Blocks in a stage and channels of the first stage, by the name of the size."""
_WIDTHS = (1, 2, 4, 8, 16, 16)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution of size one where `projected`."""

    def __init__(self, channels: int, out_channels: int, *, stride: Sequence[int] = (1, 1, 1), projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out_channels, 3, stride=tuple(stride), padding=1)
        self.norm1 = nn.InstanceNorm3d(out_channels, affine=True)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.InstanceNorm3d(out_channels, affine=True)
        self.conv3 = nn.Conv3d(channels, out_channels, 1, stride=tuple(stride)) if projected else nn.Identity()
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        return self.activation(inner + self.conv3(x))


class Upsampling(nn.Module):
    """Nearest neighbour, then a convolution of size one."""

    def __init__(self, channels: int, out_channels: int, factor: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, 1)
        self.enlarge = nn.Upsample(scale_factor=tuple(float(f) for f in factor), mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A convolution of size one and copies of voxels may change places; this way it sees an eighth of them.
        return self.enlarge(self.conv(x))


class STUNet(nn.Module):
    """Patches (batch, channels, D, H, W) -> logits (batch, classes, D, H, W).

    `strides`: one triple for each of the five steps down. The outputs of the coarser stages, which only training
    uses, are in `seg_outputs` until `drop_training_outputs`.
    """

    def __init__(
        self, channels: int, classes: int, *, depth: int = 1, width: int = 32, strides: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in _WIDTHS]
        if len(strides) != len(widths) - 1:
            raise ValueError(f"STU-Net takes {len(widths) - 1} strides, not {len(strides)}")

        def stage(entering: int, leaving: int, stride: Sequence[int] = (1, 1, 1)) -> nn.Sequential:
            first = ResidualBlock(entering, leaving, stride=stride, projected=True)
            return nn.Sequential(first, *(ResidualBlock(leaving, leaving, projected=False) for _ in range(depth - 1)))

        steps = list(zip(widths, widths[1:], strides))
        self.conv_blocks_context = nn.ModuleList([stage(channels, widths[0]), *(stage(*step) for step in steps)])
        self.upsample_layers = nn.ModuleList(Upsampling(low, high, s) for high, low, s in reversed(steps))
        self.conv_blocks_localization = nn.ModuleList(stage(2 * high, high) for high, _, _ in reversed(steps))
        self.seg_outputs = nn.ModuleList(nn.Conv3d(high, classes, 1) for high, _, _ in reversed(steps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skipped = []
        for stage in self.conv_blocks_context:
            x = stage(x)
            skipped.append(x)
        skipped.pop()
        for enlarge, stage in zip(self.upsample_layers, self.conv_blocks_localization):
            x = stage(torch.cat((enlarge(x), skipped.pop()), dim=1))
        return self.seg_outputs[-1](x)

    def drop_training_outputs(self) -> None:
        """Leave out the layers that inference does not run."""
        for number in range(len(self.seg_outputs) - 1):
            self.seg_outputs[number] = nn.Identity()
