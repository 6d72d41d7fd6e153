"""The blocks of MedFormer: convolutions after norms, and attention between voxels and a small map.

Source: Gao et al., A Data-scalable Transformer for Medical Image Segmentation, 2022 (arXiv 2203.00131).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

Triple = Sequence[int]


class ConvolutionAfterNorm(nn.Module):
    """Norm, activation (where `active`), convolution."""

    def __init__(
        self, channels: int, out_channels: int, kernel: Triple = (1, 1, 1), *, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = convolution(channels, out_channels, kernel, groups=groups)
        self.norm = nn.InstanceNorm3d(channels, eps=1e-4)
        self.act = nn.ReLU() if active else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.act(self.norm(x)))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, a convolution itself where the channels change."""

    def __init__(self, channels: int, out_channels: int, kernel: Triple) -> None:
        super().__init__()
        self.conv1 = ConvolutionAfterNorm(channels, out_channels, kernel)
        self.conv2 = ConvolutionAfterNorm(out_channels, out_channels, kernel)
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else ConvolutionAfterNorm(channels, out_channels, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class SeparableConvolution(nn.Module):
    """Each channel by itself, then all channels of a voxel."""

    def __init__(self, channels: int, out_channels: int, kernel: Triple) -> None:
        super().__init__()
        self.depthwise = convolution(channels, channels, kernel, groups=channels)
        self.pointwise = convolution(channels, out_channels, (1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class SqueezeExcitation(nn.Module):
    """Channels weighted by what all voxels say of them (Hu et al., 2018)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        narrow, wide = nn.Conv3d(channels, channels // ratio, 1), nn.Conv3d(channels // ratio, channels, 1)
        self.excitation = nn.Sequential(narrow, nn.ReLU(), wide, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.excitation(functional.adaptive_avg_pool3d(x, 1))


class InvertedBottleneck(nn.Module):
    """The feed-forward part: wider, each channel by itself, weighted, and back (Sandler et al., 2018)."""

    def __init__(self, channels: int, kernel: Triple, expansion: int) -> None:
        super().__init__()
        wide = expansion * channels
        self.expand_proj = ConvolutionAfterNorm(channels, wide)
        self.depthwise = ConvolutionAfterNorm(wide, wide, kernel, groups=wide)
        self.se = SqueezeExcitation(wide)
        self.pointwise = ConvolutionAfterNorm(wide, channels, active=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pointwise(self.se(self.depthwise(self.expand_proj(x))))


class BidirectionalAttention(nn.Module):
    """Voxels read from the map and the map from the voxels, by one product (section 3.2).

    In the channels of queries and values the head is what changes fastest.
    """

    def __init__(
        self, channels: int, map_channels: int, out_channels: int, heads: int, kernel: Triple, *, map_out: bool
    ) -> None:
        super().__init__()
        self.heads, inner = heads, out_channels
        self.feat_qv = SeparableConvolution(channels, 2 * inner, kernel)
        self.feat_out = SeparableConvolution(inner, out_channels, kernel)
        self.map_qv = convolution(map_channels, 2 * inner, (1, 1, 1))
        self.map_out = convolution(inner, map_channels, (1, 1, 1)) if map_out else nn.Identity()

    def forward(self, x: torch.Tensor, semantic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, value = (self._heads(part) for part in self.feat_qv(x).chunk(2, dim=1))
        map_query, map_value = (self._heads(part) for part in self.map_qv(semantic).chunk(2, dim=1))
        affinity = query @ map_query.transpose(-1, -2) * query.shape[-1] ** -0.5
        voxels = affinity.softmax(-1) @ map_value
        places = affinity.softmax(-2).transpose(-1, -2) @ value
        return self.feat_out(_joined(voxels, x.shape[2:])), self.map_out(_joined(places, semantic.shape[2:]))

    def _heads(self, volume: torch.Tensor) -> torch.Tensor:
        """(batch, channels, D, H, W) -> (batch, heads, voxels, channels / heads)."""
        return volume.flatten(2).unflatten(1, (-1, self.heads)).permute(0, 2, 3, 1)


class AttentionBlock(nn.Module):
    """Attention beside a shortcut, then the feed-forward part; the map goes on beside it."""

    def __init__(
        self,
        channels: int,
        map_channels: int,
        out_channels: int,
        *,
        heads: int,
        kernel: Triple,
        expansion: int,
        map_out: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.InstanceNorm3d(channels)
        self.norm2 = nn.InstanceNorm3d(map_channels)
        self.attn = BidirectionalAttention(channels, map_channels, out_channels, heads, kernel, map_out=map_out)
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else ConvolutionAfterNorm(channels, out_channels)
        self.feedforward = InvertedBottleneck(out_channels, kernel, expansion)

    def forward(self, x: torch.Tensor, semantic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, places = self.attn(self.norm1(x), self.norm2(semantic))
        return self.feedforward(found + self.shortcut(x)), places + semantic


def convolution(channels: int, out_channels: int, kernel: Triple, *, groups: int = 1) -> nn.Conv3d:
    """A convolution that keeps the grid, without a bias."""
    padding = tuple(length // 2 for length in kernel)
    return nn.Conv3d(channels, out_channels, tuple(kernel), padding=padding, groups=groups, bias=False)


def _joined(heads: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """(batch, heads, voxels, channels / heads) -> (batch, channels, *grid)."""
    return heads.permute(0, 3, 1, 2).flatten(1, 2).unflatten(2, tuple(grid))
