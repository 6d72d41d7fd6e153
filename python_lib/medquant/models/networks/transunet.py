"""TransUNet: a ResNet-50 and a vision transformer encode, a cascade of convolutions decodes; slice by slice.

Source: Chen et al., TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation, 2021 (arXiv
2102.04306), after Dosovitskiy et al., An Image is Worth 16x16 Words, 2021 (R50+ViT-B/16).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

_STANDARDIZED = "transformer.embeddings.hybrid_model."


def with_standard_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' weights with those of the ResNet's convolutions standardized.

    Their network brings every output channel of them to mean 0 and variance 1 (plus 1e-5) each time it runs
    (Qiao et al., Weight Standardization, 2019). Doing it once gives the same function with plain convolutions.
    """
    done = dict(state)
    for name, weight in state.items():
        if name.startswith(_STANDARDIZED) and weight.ndim == 4:
            variance, mean = torch.var_mean(weight.float(), dim=(1, 2, 3), keepdim=True, unbiased=False)
            done[name] = (weight.float() - mean) / torch.sqrt(variance + 1e-5)
    return done


class Bottleneck(nn.Module):
    """A residual unit of three convolutions with group norms."""

    def __init__(self, channels: int, out_channels: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.gn1 = nn.GroupNorm(32, inner, eps=1e-6)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.gn2 = nn.GroupNorm(32, inner, eps=1e-6)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.gn3 = nn.GroupNorm(32, out_channels, eps=1e-6)
        self.projected = stride != 1 or channels != out_channels
        if self.projected:
            self.downsample = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
            self.gn_proj = nn.GroupNorm(out_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.gn_proj(self.downsample(x)) if self.projected else x
        x = functional.relu(self.gn1(self.conv1(x)))
        x = functional.relu(self.gn2(self.conv2(x)))
        return functional.relu(shortcut + self.gn3(self.conv3(x)))


class ResNet(nn.Module):
    """Features at a sixteenth of the size, and those at an eighth, a quarter and a half for the decoder."""

    def __init__(self, units: Sequence[int], width: int) -> None:
        super().__init__()
        stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.root = nn.Sequential(OrderedDict(conv=stem, gn=nn.GroupNorm(32, width, eps=1e-6), relu=nn.ReLU()))
        blocks, entering = OrderedDict(), width
        for number, count in enumerate(units):
            inner = width * 2**number
            members = OrderedDict()
            for unit in range(1, count + 1):
                stride = 2 if number > 0 and unit == 1 else 1
                members[f"unit{unit}"] = Bottleneck(entering, 4 * inner, inner, stride)
                entering = 4 * inner
            blocks[f"block{number + 1}"] = nn.Sequential(members)
        self.body = nn.Sequential(blocks)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        height, width = x.shape[2:]
        x = self.root(x)
        found = [x]
        x = functional.max_pool2d(x, 3, stride=2)
        for number, block in enumerate(self.body):
            x = block(x)
            # Pooling without padding loses a row and a column, which the decoder gets back as zeros.
            down = 4 * 2**number
            found.append(functional.pad(x, (0, width // down - x.shape[3], 0, height // down - x.shape[2])))
        return x, found[-2::-1]


class Embeddings(nn.Module):
    """Tokens (batch, places, width) of the ResNet's features."""

    def __init__(self, units: Sequence[int], resnet_width: int, width: int, places: int) -> None:
        super().__init__()
        self.hybrid_model = ResNet(units, resnet_width)
        self.patch_embeddings = nn.Conv2d(resnet_width * 16, width, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, places, width))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x, found = self.hybrid_model(x)
        return self.patch_embeddings(x).flatten(2).transpose(1, 2) + self.position_embeddings, found


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        parts = (layer(tokens) for layer in (self.query, self.key, self.value))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-6)
        self.ffn = FeedForward(width, inner)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.attention_norm(tokens))
        return tokens + self.ffn(self.ffn_norm(tokens))


class Encoder(nn.Module):
    """Blocks and a last norm."""

    def __init__(self, depth: int, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(width, heads, inner) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.layer:
            tokens = block(tokens)
        return self.encoder_norm(tokens)


class Transformer(nn.Module):
    """The whole encoder."""

    def __init__(self, embeddings: Embeddings, encoder: Encoder) -> None:
        super().__init__()
        self.embeddings, self.encoder = embeddings, encoder


class DecoderBlock(nn.Module):
    """Twice the size, the encoder's features beside it, two convolutions."""

    def __init__(self, channels: int, out_channels: int, skipped: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels + skipped, out_channels)
        self.conv2 = _convolution(out_channels, out_channels)

    def forward(self, x: torch.Tensor, skipped: torch.Tensor | None) -> torch.Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.conv2(self.conv1(x if skipped is None else torch.cat((x, skipped), dim=1)))


class Decoder(nn.Module):
    """The cascaded upsampler."""

    def __init__(self, width: int, first: int, channels: Sequence[int], skipped: Sequence[int]) -> None:
        super().__init__()
        self.conv_more = _convolution(width, first)
        self.blocks = nn.ModuleList(DecoderBlock(*step) for step in zip((first, *channels), channels, skipped))

    def forward(self, x: torch.Tensor, found: list[torch.Tensor]) -> torch.Tensor:
        x = self.conv_more(x)
        for number, block in enumerate(self.blocks):
            x = block(x, found[number] if number < len(found) else None)
        return x


class TransUNet(nn.Module):
    """Slices (batch, 1, slices, rows, columns) -> logits (batch, classes, slices, rows, columns).

    Rows and columns are `size`, a multiple of 32; no slice sees another. Load weights through `with_standard_weights`.
    """

    def __init__(
        self,
        classes: int,
        *,
        size: int = 224,
        units: Sequence[int] = (3, 4, 9),
        resnet_width: int = 64,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        inner: int = 3072,
        first: int = 512,
        decoder: Sequence[int] = (256, 128, 64, 16),
    ) -> None:
        super().__init__()
        embeddings = Embeddings(units, resnet_width, width, (size // 16) ** 2)
        self.transformer = Transformer(embeddings, Encoder(depth, width, heads, inner))
        skipped = (8 * resnet_width, 4 * resnet_width, resnet_width, 0)
        self.decoder = Decoder(width, first, decoder, skipped)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder[-1], classes, 3, padding=1))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        slices = volume.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        tokens, found = self.transformer.embeddings(slices)
        tokens = self.transformer.encoder(tokens)
        grid = (slices.shape[2] // 16, slices.shape[3] // 16)
        x = self.decoder(tokens.transpose(1, 2).unflatten(2, grid), found)
        return self.segmentation_head(x).unflatten(0, (volume.shape[0], -1)).transpose(1, 2)


def _convolution(channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
