"""SegFormer3D: a small pyramid of transformers with a decoder of linear layers.

Source: Perera et al., SegFormer3D: an Efficient Transformer for 3D Medical Image Segmentation, CVPR Workshops 2024
(arXiv 2404.10156), after Xie et al., SegFormer, 2021. Written from the papers; names and shapes of the modules are
those of the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

Grid = tuple[int, int, int]


def tokens_of(volume: torch.Tensor) -> torch.Tensor:
    """(batch, channels, D, H, W) -> (batch, voxels, channels)."""
    return volume.flatten(2).transpose(1, 2)


def volume_of(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, voxels, channels) -> (batch, channels, *grid)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


class PatchEmbedding(nn.Module):
    """Overlapping patches to tokens of `width`."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv3d(channels, width, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, volume: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        embedded = self.patch_embeddings(volume)
        return self.norm(tokens_of(embedded)), tuple(embedded.shape[2:])


class EfficientAttention(nn.Module):
    """Attention whose keys and values are those of a grid `reduction` times coarser (section 3.1)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv3d(width, width, reduction, stride=reduction)
            self.sr_norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        coarse = tokens
        if self.reduction > 1:
            coarse = self.sr_norm(tokens_of(self.sr(volume_of(tokens, grid))))
        key, value = self.key_value(coarse).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in
                             (self.query(tokens), key, value))  # fmt: skip
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class DepthwiseConvolution(nn.Module):
    """A 3x3x3 convolution of each channel by itself, which tells the tokens where they are (section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        return tokens_of(self.bn(self.dwconv(volume_of(tokens, grid))))


class MixFeedForward(nn.Module):
    """Two linear layers with the depthwise convolution between them."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.dwconv = DepthwiseConvolution(ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        return self.fc2(functional.gelu(self.dwconv(self.fc1(tokens), grid)))


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, reduction: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = EfficientAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixFeedForward(width, ratio)

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        tokens = tokens + self.attention(self.norm1(tokens), grid)
        return tokens + self.mlp(self.norm2(tokens), grid)


class Encoder(nn.Module):
    """Four stages, each on a coarser grid."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        reductions: Sequence[int],
        ratios: Sequence[int],
        kernels: Sequence[int],
    ) -> None:
        super().__init__()
        self.stages = len(widths)
        entering = (channels, *widths)
        for n in range(self.stages):
            embed = PatchEmbedding(entering[n], widths[n], kernel=kernels[n], stride=4 if n == 0 else 2)
            blocks = (Block(widths[n], heads[n], reductions[n], ratios[n]) for _ in range(depths[n]))
            setattr(self, f"embed_{n + 1}", embed)
            setattr(self, f"tf_block{n + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{n + 1}", nn.LayerNorm(widths[n]))

    def forward(self, volume: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for n in range(1, self.stages + 1):
            tokens, grid = getattr(self, f"embed_{n}")(volume)
            for block in getattr(self, f"tf_block{n}"):
                tokens = block(tokens, grid)
            volume = volume_of(getattr(self, f"norm{n}")(tokens), grid)
            found.append(volume)
        return found


class LinearEmbedding(nn.Module):
    """The features of one stage brought to the decoder's width."""

    def __init__(self, width: int, decoder_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, decoder_width)
        self.bn = nn.LayerNorm(decoder_width)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return volume_of(self.bn(self.proj(tokens_of(volume))), tuple(volume.shape[2:]))


class Decoder(nn.Module):
    """All stages on the grid of the first, joined by linear layers; logits four times as fine."""

    def __init__(self, widths: Sequence[int], decoder_width: int, classes: int) -> None:
        super().__init__()
        self.stages = len(widths)
        for n, width in enumerate(widths, start=1):
            setattr(self, f"linear_c{n}", LinearEmbedding(width, decoder_width))
        joined = nn.Conv3d(self.stages * decoder_width, decoder_width, 1, bias=False)
        self.linear_fuse = nn.Sequential(joined, nn.BatchNorm3d(decoder_width), nn.ReLU())
        self.linear_pred = nn.Conv3d(decoder_width, classes, 1)

    def forward(self, found: list[torch.Tensor]) -> torch.Tensor:
        grid = found[0].shape[2:]
        embedded = [getattr(self, f"linear_c{n}")(volume) for n, volume in enumerate(found, start=1)]
        same = [functional.interpolate(volume, size=grid, mode="trilinear") for volume in reversed(embedded)]
        logits = self.linear_pred(self.linear_fuse(torch.cat(same, dim=1)))
        return functional.interpolate(logits, scale_factor=4.0, mode="trilinear")


class SegFormer3D(nn.Module):
    """Patches (batch, channels, D, H, W), sides multiples of 32 -> logits (batch, classes, D, H, W)."""

    def __init__(
        self,
        channels: int = 4,
        classes: int = 3,
        *,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (4, 2, 1, 1),
        ratios: Sequence[int] = (4, 4, 4, 4),
        kernels: Sequence[int] = (7, 3, 3, 3),
        decoder_width: int = 256,
    ) -> None:
        super().__init__()
        self.segformer_encoder = Encoder(channels, widths, depths, heads, reductions, ratios, kernels)
        self.segformer_decoder = Decoder(widths, decoder_width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.segformer_decoder(self.segformer_encoder(x))
