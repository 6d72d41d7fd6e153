"""SAM's image attention as whole matrix products, the form in which converters trace it and runtimes fuse it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from medquant.deploy.int8_codes import BITS_WITHOUT_VNNI
from medquant.models.sam_attention import ChunkedAttention

CELLS = 2**26
"""Numbers of the attention map that are held at a time, for each picture: four heads of 4096 tokens."""


class WholeAttention(ChunkedAttention):
    """`ChunkedAttention` with the attention maps of several heads in one piece, rounded at the same places."""

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False) -> tuple[torch.Tensor, None]:
        """Hidden states (batch, height, width, channels) -> the same shape, and None."""
        batch, height, width, _ = hidden_states.shape
        tokens, heads = height * width, self.num_attention_heads
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        scaled = self._rounded("query", query * self.scale)
        key, value = self._rounded("key", key).transpose(-2, -1), self._rounded("value", value)
        at_once = max(1, CELLS // tokens**2)
        parts = []
        for start in range(0, heads, at_once):
            some = slice(start, start + at_once)
            scores = scaled[:, some] @ key[:, some]
            if self.use_rel_pos:
                scores = scores + self._whole_bias(query[:, some], height, width)
            parts.append(self._rounded("probabilities", functional.softmax(scores, -1)) @ value[:, some])
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        joined = mixed.permute(0, 2, 1, 3).reshape(batch, height, width, -1)
        return self.proj(joined), None

    def _rounded(self, name: str, values: torch.Tensor) -> torch.Tensor:
        quantizers = getattr(self, "quantizers", None)
        return values if quantizers is None else quantizers[name](values)

    def _whole_bias(self, query: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """What relative positions add to the scores: (batch, heads, tokens, tokens).

        One product for each row of the picture (and each column), its operands in three axes: runtimes compute those in
        bf16, where products with more axes stay in FP32.
        """
        batch, heads, tokens, size = query.shape
        places = query.reshape(batch * heads, height, width, size)
        rows, columns = places.transpose(0, 1).reshape(height, -1, size), places.permute(2, 0, 1, 3)
        by_row = rows @ self.get_rel_pos(height, height, self.rel_pos_h).transpose(1, 2)
        by_row = by_row.reshape(height, batch * heads, width, height).transpose(0, 1)
        by_column = columns.reshape(width, -1, size) @ self.get_rel_pos(width, width, self.rel_pos_w).transpose(1, 2)
        by_column = by_column.reshape(width, batch * heads, height, width).permute(1, 2, 0, 3)
        return (by_row[..., :, None] + by_column[..., None, :]).reshape(batch, heads, tokens, tokens)


def export_attention(network: nn.Module, quantizer: Callable[[nn.Module], nn.Module] | None) -> None:
    """Let every `ChunkedAttention` compute in whole products, each of its quantizers exchanged by `quantizer`.

    None leaves the quantizers out.
    """
    if quantizer is None:
        drop_attention_quantizers(network)
    for module in network.modules():
        if isinstance(module, ChunkedAttention):
            module.__class__ = WholeAttention
            if getattr(module, "quantizers", None) is not None:
                module.quantizers = nn.ModuleDict({k: quantizer(q) for k, q in module.quantizers.items()})


def drop_overflowing_products(network: nn.Module) -> None:
    """Leave products in floating point whose factors both have too many bits for processors without VNNI."""
    for module in network.modules():
        quantizers = getattr(module, "quantizers", None) if isinstance(module, ChunkedAttention) else None
        if quantizers is not None and min(quantizer.bits for quantizer in quantizers.values()) > BITS_WITHOUT_VNNI:
            module.quantizers = None


def drop_attention_quantizers(network: nn.Module) -> None:
    """Let attention compute without rounding."""
    for module in network.modules():
        if isinstance(module, ChunkedAttention):
            module.quantizers = None
