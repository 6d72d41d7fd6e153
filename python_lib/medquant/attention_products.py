"""The two products of attention with integer factors: queries by keys, and probabilities by values.

Attention modules that take part have `watch`, called with the name and the values of each factor, and `quantizers`, a
ModuleDict by the same names, that rounds them: those of SAM's image encoder. The products of all other attention (SAM's
mask decoder, UNETR and SwinUNETR of MONAI, torch's own) stay in floating point, which `floating_attention` tells; their
linear layers are quantized like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.activations import ActivationQuantizer
from medquant.layers import QuantizedLayer
from medquant.observers import find_range, grid_of, stride
from medquant.rewrites.rewritten import Rewritten

FACTORS = ("query", "key", "probabilities", "value")
_OTHER_NAMES = ("SABlock", "MHSA")
"""Classes that compute attention and do not have it in their name (MONAI's, for one)."""
SAMPLES, FROM_EACH = 2**16, 2**12
"""Numbers that are kept of each factor of each module, and of each time that it is computed."""


def attention_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that take part, by name."""
    return {name: m for name, m in network.named_modules() if hasattr(m, "watch") and hasattr(m, "quantizers")}


def floating_attention(network: nn.Module) -> dict[str, str]:
    """Attention modules whose products are computed in floating point, by name, each with the reason."""
    taking_part = attention_modules(network)
    found = {}
    for name, module in network.named_modules():
        if name in taking_part:
            if module.quantizers is None:
                found[name] = "the products of its attention are not rounded, as the recipe says"
        elif _is_attention(module):
            found[name] = "the products of its attention are not rounded; its linear layers are"
    return found


def _is_attention(module: nn.Module) -> bool:
    """Whether a module computes attention, as far as its name tells: one with linear layers of its own."""
    kind = type(module).__name__
    own = any(isinstance(child, nn.Linear) or _was_linear(child) for child in module.children())
    return own and ("Attention" in kind or kind in _OTHER_NAMES)


def _was_linear(module: nn.Module) -> bool:
    return isinstance(module, QuantizedLayer | Rewritten) and module.geometry.kind == "Linear"


class AttentionSamples:
    """Context manager: keeps samples of every factor while the network runs, for `fit` afterwards."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = attention_modules(network)
        self._seen: dict[tuple[str, str], _Sample] = {}

    def __enter__(self) -> AttentionSamples:
        for name, module in self._modules.items():
            module.watch = lambda factor, values, name=name: self._sample(name, factor).add(values)
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._modules.values():
            del module.watch

    def fit(self, settings: IntActivations) -> None:
        """Give every attention module the quantizers for what its factors were.

        One scale for each factor, static, as integer kernels take it; probabilities span zero to the largest seen.
        """
        for name, module in self._modules.items():
            if (name, FACTORS[0]) in self._seen:
                made = {factor: _fitted(settings, factor, self._seen[name, factor].values()) for factor in FACTORS}
                module.quantizers = nn.ModuleDict(made)

    def _sample(self, name: str, factor: str) -> _Sample:
        return self._seen.setdefault((name, factor), _Sample())


class _Sample:
    """Evenly spread values of all that comes, at most twice `SAMPLES` of them, and the extreme ones."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []
        self._ends: torch.Tensor | None = None
        self._thinner = 1

    def add(self, values: torch.Tensor) -> None:
        flat = values.reshape(-1)
        ends = torch.stack(flat.aminmax())
        if self._ends is not None:
            ends = torch.stack([torch.minimum(ends[0], self._ends[0]), torch.maximum(ends[1], self._ends[1])])
        self._ends = ends.clone()
        self._kept.append(flat[:: stride(len(flat), max(1, FROM_EACH // self._thinner), values.shape[-1])].clone())
        if sum(map(len, self._kept)) > 2 * SAMPLES:  # from now on half as many of each
            together = torch.cat(self._kept)
            chosen = torch.randperm(len(together), generator=torch.Generator().manual_seed(0))[: len(together) // 2]
            self._kept = [together[chosen]]
            self._thinner *= 2

    def values(self) -> torch.Tensor:
        return torch.cat([*self._kept, self._ends])


def quantizer_settings(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Module -> factor -> arguments of its quantizer, for those that have some."""
    return {
        name: {factor: quantizer.settings() for factor, quantizer in module.quantizers.items()}
        for name, module in attention_modules(network).items()
        if module.quantizers is not None
    }


def restore_quantizers(network: nn.Module, settings: dict[str, dict[str, Any]]) -> None:
    """The inverse of `quantizer_settings`; scales and zero points are to be filled in."""
    for name, factors in settings.items():
        made = {
            factor: ActivationQuantizer(**arguments, scale=torch.zeros(()), zero=torch.zeros((), dtype=torch.int32))
            for factor, arguments in factors.items()
        }
        network.get_submodule(name).quantizers = nn.ModuleDict(made)


def _fitted(settings: IntActivations, factor: str, samples: torch.Tensor) -> ActivationQuantizer:
    # Integer kernels for the product of two inputs take no zero points; probabilities need none, starting at zero.
    symmetric = settings.symmetric or factor != "probabilities"
    made = ActivationQuantizer(settings.bits, "tensor", symmetric=symmetric, channel_axis=-1)
    observer = "min-max" if factor == "probabilities" else settings.observer
    low, high = find_range(samples[None], made.levels, observer, symmetric=symmetric)
    scale, zero = grid_of(low[0], high[0], made.levels)
    # Ordinary tensors: what is made in inference mode could not be loaded into.
    made.scale, made.zero = torch.tensor(float(scale)), torch.tensor(int(zero), dtype=torch.int32)
    return made
