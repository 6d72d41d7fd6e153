"""The two products of attention with integer factors: queries by keys, and probabilities by values.

Attention modules that take part have `watch`, called with the name and the values of each factor, and `quantizers`, a
ModuleDict by the same names, that rounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.activations import ActivationQuantizer
from medquant.observers import find_range, grid_of

FACTORS = ("query", "key", "probabilities", "value")
SAMPLES = 2**16
"""Numbers that are kept of each factor of each module."""


def attention_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that take part, by name."""
    return {name: m for name, m in network.named_modules() if hasattr(m, "watch") and hasattr(m, "quantizers")}


def fit_attention(network: nn.Module, settings: IntActivations, runs: Iterable[Callable[[], Any]]) -> None:
    """Give every attention module the quantizers for what its factors are in `runs`, which call the network.

    One scale for each factor, static, as integer kernels take it; probabilities span zero to the largest seen.
    """
    modules = attention_modules(network)
    samples: dict[tuple[str, str], list[torch.Tensor]] = {}
    for name, module in modules.items():
        module.watch = lambda factor, values, name=name: samples.setdefault((name, factor), []).append(_some(values))
    try:
        with torch.inference_mode():
            for run in runs:
                run()
    finally:
        for module in modules.values():
            del module.watch
    for name, module in modules.items():
        if (name, FACTORS[0]) in samples:
            made = {factor: _fitted(settings, factor, torch.cat(samples[name, factor])) for factor in FACTORS}
            module.quantizers = nn.ModuleDict(made)


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


def _some(values: torch.Tensor) -> torch.Tensor:
    """Evenly spread values, and the extreme ones."""
    flat = values.reshape(-1)
    return torch.cat([flat[:: -(-len(flat) // (SAMPLES // 16))], flat.amin()[None], flat.amax()[None]]).clone()


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
