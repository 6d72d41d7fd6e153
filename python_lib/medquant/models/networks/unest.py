"""UNesT: a nested transformer encodes, residual convolutions decode.

Source: Yu et al., UNesT: Local Spatial Representation Learning with Hierarchical Transformer for Efficient Medical
Segmentation, Medical Image Analysis 2023 (arXiv 2209.14378), after Zhang et al., Nested Hierarchical Transformer, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.blocks.dynunet_block import UnetOutBlock, UnetResBlock, get_conv_layer
from torch import nn
from torch.nn import functional

_PATCH = 4
"""Side of a token in voxels; the decoder's steps fit no other."""


def blocks_of(volume: torch.Tensor, side: int) -> torch.Tensor:
    """(batch, channels, D, H, W) -> (batch, blocks, side ** 3, channels): cubes of `side` that do not overlap."""
    batch, channels, *grid = volume.shape
    d, h, w = (length // side for length in grid)
    cubes = volume.reshape(batch, channels, d, side, h, side, w, side)
    return cubes.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, d * h * w, side**3, channels)


def volume_of(blocks: torch.Tensor, side: int, grid: Sequence[int]) -> torch.Tensor:
    """The inverse of `blocks_of` for a volume of `grid`."""
    batch, _, _, channels = blocks.shape
    d, h, w = (length // side for length in grid)
    cubes = blocks.reshape(batch, d, h, w, side, side, side, channels)
    return cubes.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(batch, channels, *grid)


class Attention(nn.Module):
    """Multi-head self-attention within each block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(blocks).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        # In the joined channels the head is what changes fastest.
        return self.proj(mixed.permute(0, 1, 3, 4, 2).flatten(3))


class FeedForward(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(blocks)))


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        blocks = blocks + self.attn(self.norm1(blocks))
        return blocks + self.mlp(self.norm2(blocks))


class Aggregation(nn.Module):
    """Neighbouring blocks are joined: a convolution, a norm of the channels, half the size."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, out_width, 3, padding=1)
        self.norm = nn.LayerNorm(out_width, eps=1e-6)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return functional.max_pool3d(normed(self.norm, self.conv(volume)), 3, stride=2, padding=1)


class Level(nn.Module):
    """One level of the hierarchy; the first has no aggregation before it."""

    def __init__(self, blocks: int, side: int, width: int, heads: int, depth: int, entering: int | None) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(torch.zeros(1, blocks, side**3, width))
        self.pool = nn.Identity() if entering is None else Aggregation(entering, width)
        self.transformer_encoder = nn.Sequential(*(TransformerLayer(width, heads) for _ in range(depth)))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        volume = self.pool(volume)
        blocks = self.transformer_encoder(blocks_of(volume, self.side) + self.pos_embed)
        return volume_of(blocks, self.side, volume.shape[2:])


class PatchEmbedding(nn.Module):
    """Patches that do not overlap to tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, _PATCH, stride=_PATCH)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.proj(volume)


class NestedTransformer(nn.Module):
    """Features of the embedding and of every level, the last of them once more with a norm."""

    def __init__(self, size: int, widths: Sequence[int], heads: Sequence[int], depths: Sequence[int]):
        super().__init__()
        levels = len(widths)
        side = size // _PATCH // 2 ** (levels - 1)
        entering = (None, *widths)
        self.patch_embed = PatchEmbedding(widths[0])
        self.levels = nn.ModuleList(
            Level(8 ** (levels - 1 - n), side, widths[n], heads[n], depths[n], entering[n]) for n in range(levels)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)

    def forward(self, volume: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        found = [self.patch_embed(volume)]
        for level in self.levels:
            found.append(level(found[-1]))
        return normed(self.norm, found[-1]), found


class Convolved(nn.Module):
    """A residual block of convolutions."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer = UnetResBlock(3, channels, out_channels, kernel_size=3, stride=1, norm_name="instance")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Enlarged(nn.Module):
    """Twice the size by a transposed convolution, and one of size one."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv_init = _transposed(channels, out_channels, 2)
        self.blocks = nn.ModuleList([_transposed(out_channels, out_channels, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](self.transp_conv_init(x))


class DecoderBlock(nn.Module):
    """Twice the size, the encoder's features beside it, a residual block."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = _transposed(channels, out_channels, 2)
        self.conv_block = UnetResBlock(3, 2 * out_channels, out_channels, kernel_size=3, stride=1, norm_name="instance")

    def forward(self, x: torch.Tensor, skipped: torch.Tensor) -> torch.Tensor:
        return self.conv_block(torch.cat((self.transp_conv(x), skipped), dim=1))


class UNesT(nn.Module):
    """Patches (batch, 1, size, size, size) -> logits (batch, classes, size, size, size).

    The decoder's widths follow from those of the three levels; base is (128, 256, 512).
    """

    def __init__(
        self,
        classes: int,
        *,
        size: int = 96,
        widths: Sequence[int] = (128, 256, 512),
        heads: Sequence[int] = (4, 8, 16),
        depths: Sequence[int] = (2, 2, 8),
    ) -> None:
        super().__init__()
        first, second, third = widths
        fine, finest = first // 2, first // 4
        self.nestViT = NestedTransformer(size, widths, heads, depths)
        self.encoder1 = Convolved(1, finest)
        self.encoder2 = Enlarged(first, fine)
        self.encoder3 = Convolved(first, first)
        self.encoder4 = Convolved(second, second)
        self.encoder10 = Convolution(3, third, 2 * third, strides=2, adn_ordering="ADN", dropout=0.0)
        self.decoder5 = DecoderBlock(2 * third, third)
        self.decoder4 = DecoderBlock(third, second)
        self.decoder3 = DecoderBlock(second, first)
        self.decoder2 = DecoderBlock(first, fine)
        self.decoder1 = DecoderBlock(fine, finest)
        self.out = UnetOutBlock(3, finest, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last, (embedded, first, second, third) = self.nestViT(x)
        y = self.decoder5(self.encoder10(last), third)
        y = self.decoder4(y, self.encoder4(second))
        y = self.decoder3(y, self.encoder3(first))
        y = self.decoder2(y, self.encoder2(embedded))
        return self.out(self.decoder1(y, self.encoder1(x)))


def normed(norm: nn.LayerNorm, volume: torch.Tensor) -> torch.Tensor:
    """A norm over the channels of (batch, channels, D, H, W)."""
    return norm(volume.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def _transposed(channels: int, out_channels: int, factor: int) -> nn.Module:
    return get_conv_layer(
        3, channels, out_channels, kernel_size=factor, stride=factor, act=None, norm=None, is_transposed=True
    )
