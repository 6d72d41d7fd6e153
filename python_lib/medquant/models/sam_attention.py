"""SAM's image attention in little memory.

In the blocks that see the whole picture, each of 4096 tokens attends to all others: with twelve heads the attention
map takes 805 MB, and the bias of the relative positions as much again. Nothing needs the map as a whole. Computed a few
rows at a time it stays in the processor's cache, which is several times faster as well; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers.models.sam.modeling_sam import SamVisionAttention

CELLS = 2**21
"""Numbers of the attention map that are held at a time (8 MB in float32)."""


class ChunkedAttention(SamVisionAttention):
    """`SamVisionAttention` for inference, a piece of the attention map at a time. No map is returned.

    The factors of its two products are called query, key, probabilities and value (`medquant.attention_products`).
    """

    quantizers: nn.ModuleDict | None
    watch: Callable[[str, torch.Tensor], None] | None = None

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False) -> tuple[torch.Tensor, None]:
        """Hidden states (batch, height, width, channels) -> the same shape, and None."""
        return self.proj(self._attended(hidden_states)), None

    def _attended(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, height, width, _ = hidden_states.shape
        tokens, heads = height * width, self.num_attention_heads
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.reshape(3, batch * heads, tokens, -1).unbind(0)
        scaled, value = self._factor("query", query * self.scale), self._factor("value", value)
        key = self._factor("key", key).transpose(1, 2)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        heads_at_once = max(1, CELLS // tokens**2)
        rows_at_once = min(tokens, max(1, CELLS // tokens))
        for head in range(0, batch * heads, heads_at_once):
            some = slice(head, head + heads_at_once)
            bias = self._position_bias(query[some], height, width)
            for row in range(0, tokens, rows_at_once):
                rows = slice(row, row + rows_at_once)
                part = scaled[some, rows]
                scores = part @ key[some] if bias is None else _sum_of(bias, rows).baddbmm_(part, key[some])
                weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
                output[some, rows] = self._factor("probabilities", weights) @ value[some]
        joined = output.reshape(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return joined.reshape(batch, height, width, -1)

    def _factor(self, name: str, values: torch.Tensor) -> torch.Tensor:
        if self.watch is not None:
            self.watch(name, values)
        return values if self.quantizers is None else self.quantizers[name](values)

    def _position_bias(self, query: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the keys' rows and columns add to the scores: (heads, tokens, height) and (heads, tokens, width)."""
        if not self.use_rel_pos:
            return None
        by_place = query.reshape(len(query), height, width, -1)
        by_row = torch.einsum("bhwc,hkc->bhwk", by_place, self.get_rel_pos(height, height, self.rel_pos_h))
        by_column = torch.einsum("bhwc,wkc->bhwk", by_place, self.get_rel_pos(width, width, self.rel_pos_w))
        return by_row.flatten(1, 2), by_column.flatten(1, 2)


def _sum_of(bias: tuple[torch.Tensor, torch.Tensor], rows: slice) -> torch.Tensor:
    """The bias of some rows of the attention map: (heads, rows, tokens)."""
    by_row, by_column = bias
    return (by_row[:, rows, :, None] + by_column[:, rows, None, :]).flatten(2)


def attend_in_chunks(network: nn.Module) -> None:
    """Let the image encoder of a `SamModel` compute its attention in chunks. Its tensors stay as they are."""
    for module in network.modules():
        if isinstance(module, SamVisionAttention) and not isinstance(module, ChunkedAttention):
            module.__class__ = ChunkedAttention  # the same parameters, another order of computation
            module.quantizers = None
