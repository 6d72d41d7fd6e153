"""MedFormer: convolutions, and attention between voxels and a small map that stands for the whole.

Source: Gao et al., A Data-scalable Transformer for Medical Image Segmentation: Architecture, Model Efficiency, and
Benchmark, 2022 (arXiv 2203.00131).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from medquant.models.networks.medformer_blocks import (
    AttentionBlock,
    ResidualBlock,
    SeparableConvolution,
    Triple,
    convolution,
)


class AttentionBlocks(nn.Module):
    """A number of them; without any, both inputs as they are."""

    def __init__(
        self, channels: int, map_channels: int, out_channels: int, *, count: int, map_out: bool, **options: int | Triple
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            AttentionBlock(
                channels if number == 0 else out_channels,
                map_channels,
                out_channels,
                map_out=map_out or number < count - 1,
                **options,
            )
            for number in range(count)
        )

    def forward(self, x: torch.Tensor, semantic: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        for block in self.blocks:
            x, semantic = block(x, semantic)
        return x, semantic


class MapGeneration(nn.Module):
    """The map: as many weighted means over all voxels as it has places (section 3.3)."""

    def __init__(self, channels: int, map_size: Triple) -> None:
        super().__init__()
        self.map_size = tuple(map_size)
        places = map_size[0] * map_size[1] * map_size[2]
        self.base_proj = convolution(channels, channels, (3, 3, 3))
        self.semantic_proj = convolution(channels, places, (3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.semantic_proj(x).flatten(2).softmax(-1)
        return (self.base_proj(x).flatten(2) @ weights.transpose(1, 2)).unflatten(2, self.map_size)


class Prenormed(nn.Module):
    """A norm before a function, beside a shortcut."""

    def __init__(self, width: int, function: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), function

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens + self.fn(self.norm(tokens))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        parts = self.to_qkv(tokens).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Transformer(nn.Module):
    """An ordinary transformer over the places of all maps."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Prenormed(width, Attention(width, heads)), Prenormed(width, FeedForward(width))])
            for _ in range(depth)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for attention, feed_forward in self.layers:
            tokens = feed_forward(attention(tokens))
        return tokens


class MapFusion(nn.Module):
    """The maps of all scales see each other (section 3.4)."""

    def __init__(self, channels: Sequence[int], width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.in_proj = nn.ModuleList(convolution(c, width, (1, 1, 1)) for c in channels)
        self.fusion = Transformer(width, depth, heads)
        self.out_proj = nn.ModuleList(convolution(width, c, (1, 1, 1)) for c in channels)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        tokens = [enter(one).flatten(2).transpose(1, 2) for enter, one in zip(self.in_proj, maps)]
        fused = self.fusion(torch.cat(tokens, dim=1)).chunk(len(maps), dim=1)
        size = maps[0].shape[2:]
        return [leave(one.transpose(1, 2).unflatten(2, size)) for leave, one in zip(self.out_proj, fused)]


class PatchMerging(nn.Module):
    """Neighbouring voxels become channels; fewer of both."""

    def __init__(self, channels: int, out_channels: int, scale: Triple, kernel: Triple) -> None:
        super().__init__()
        self.scale = tuple(scale)
        merged = channels * scale[0] * scale[1] * scale[2]
        self.reduction = SeparableConvolution(merged, out_channels, kernel)
        self.norm = nn.InstanceNorm3d(merged)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d, h, w = self.scale
        parts = [x[:, :, i::d, j::h, k::w] for i in range(d) for j in range(h) for k in range(w)]
        return self.reduction(self.norm(torch.cat(parts, dim=1)))


class Stem(nn.Module):
    """The first convolutions, at full size."""

    def __init__(self, channels: int, out_channels: int, kernel: Triple) -> None:
        super().__init__()
        self.conv1 = convolution(channels, out_channels, kernel)
        self.conv2 = ResidualBlock(out_channels, out_channels, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class Down(nn.Module):
    """A stage of the encoder; with attention it makes a map."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        convolutions: int,
        attentions: int,
        heads: int,
        scale: Triple,
        kernel: Triple,
        map_size: Triple | None,
        expansion: int,
    ) -> None:
        super().__init__()
        if map_size is not None:
            self.map_gen = MapGeneration(out_channels, map_size)
        self.patch_merging = PatchMerging(channels, out_channels, scale, kernel)
        blocks = (ResidualBlock(out_channels, out_channels, kernel) for _ in range(convolutions))
        self.conv_blocks = nn.Sequential(*blocks)
        options = {"count": attentions, "heads": heads, "kernel": kernel, "expansion": expansion}
        self.trans_blocks = AttentionBlocks(out_channels, out_channels, out_channels, map_out=True, **options)
        self.has_map = map_size is not None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = self.conv_blocks(self.patch_merging(x))
        return self.trans_blocks(x, self.map_gen(x) if self.has_map else None)


class Up(nn.Module):
    """A stage of the decoder; `joins` the maps of two scales."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        convolutions: int,
        attentions: int,
        heads: int,
        kernel: Triple,
        joins: bool,
        map_out: bool,
        expansion: int,
    ) -> None:
        super().__init__()
        both = channels + out_channels
        self.map_reduction = convolution(both, out_channels, (1, 1, 1)) if joins else nn.Identity()
        options = {"count": attentions, "heads": heads, "kernel": kernel, "expansion": expansion}
        self.trans_blocks = AttentionBlocks(both, out_channels, out_channels, map_out=map_out, **options)
        entering = out_channels if attentions else both
        self.conv_blocks = nn.Sequential(
            *(ResidualBlock(entering if n == 0 else out_channels, out_channels, kernel) for n in range(convolutions))
        )

    def forward(
        self,
        x: torch.Tensor,
        skipped: torch.Tensor,
        semantic: torch.Tensor | None = None,
        skipped_map: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = functional.interpolate(x, size=skipped.shape[2:], mode="trilinear", align_corners=True)
        if skipped_map is not None:
            semantic = self.map_reduction(torch.cat((semantic, skipped_map), dim=1))
        x, semantic = self.trans_blocks(torch.cat((x, skipped), dim=1), semantic)
        return self.conv_blocks(x), semantic


class MedFormer(nn.Module):
    """Patches (batch, channels, D, H, W) -> logits (batch, classes, D, H, W).

    The eight entries of `widths`, `convolutions`, `attentions` and `heads` are the four stages down and the four up;
    the first and the last two have no attention. `auxiliary`: a second output, which only training uses, is held.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        stem: int = 32,
        widths: Sequence[int] = (64, 128, 256, 320, 256, 128, 64, 32),
        convolutions: Sequence[int] = (2, 0, 0, 0, 0, 0, 2, 2),
        attentions: Sequence[int] = (0, 2, 4, 6, 4, 2, 0, 0),
        heads: Sequence[int] = (1, 4, 8, 10, 8, 4, 1, 1),
        scales: Sequence[Triple] = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernels: Sequence[Triple] = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        map_size: Triple = (3, 3, 3),
        expansion: int = 4,
        fusion_width: int = 320,
        fusion_depth: int = 2,
        fusion_heads: int = 10,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.inc = Stem(channels, stem, kernels[0])
        entering = (stem, *widths)
        for n in range(4):
            stage = Down(
                entering[n],
                widths[n],
                convolutions=convolutions[n],
                attentions=attentions[n],
                heads=heads[n],
                scale=scales[n],
                kernel=kernels[n + 1],
                map_size=None if n == 0 else map_size,
                expansion=expansion,
            )
            setattr(self, f"down{n + 1}", stage)
        self.map_fusion = MapFusion(widths[1:4], fusion_width, fusion_depth, fusion_heads)
        for n in range(4):
            stage = Up(
                widths[n + 3],
                widths[n + 4],
                convolutions=convolutions[n + 4],
                attentions=attentions[n + 4],
                heads=heads[n + 4],
                kernel=kernels[3 - n],
                joins=n < 2,
                map_out=n != 1,
                expansion=expansion,
            )
            setattr(self, f"up{n + 1}", stage)
        if auxiliary:
            self.aux_out = nn.Conv3d(widths[5], classes, 1)
        self.outc = nn.Conv3d(widths[7], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = self.inc(x)
        first, _ = self.down1(full)
        second, second_map = self.down2(first)
        third, third_map = self.down3(second)
        fourth, fourth_map = self.down4(third)
        second_map, third_map, fourth_map = self.map_fusion([second_map, third_map, fourth_map])
        y, semantic = self.up1(fourth, third, fourth_map, third_map)
        y, _ = self.up2(y, second, semantic, second_map)
        y, _ = self.up3(y, first)
        y, _ = self.up4(y, full)
        return self.outc(y)

    def drop_training_outputs(self) -> None:
        """Leave out the layer that inference does not run."""
        if hasattr(self, "aux_out"):
            del self.aux_out
