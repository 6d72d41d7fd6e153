"""Which layers are quantized, and with what grids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.channels import Live, live_channels
from medquant.geometry import LayerGeometry
from medquant.granularity import PerTensor
from medquant.matrices import QUANTIZABLE, Layout, is_quantizable
from medquant.observe import Observation
from medquant.products import linear
from medquant.recipe import IntWeights, Recipe


@dataclass(frozen=True)
class LayerJob:
    """One layer to quantize: its (folded) weight and bias, its place in the network, its grid."""

    name: str
    index: int
    module: nn.Module
    weight: torch.Tensor
    bias: torch.Tensor | None
    bits: IntWeights
    geometry: LayerGeometry
    live: Live = field(default_factory=Live)
    activations: IntActivations | None = None

    def full(self, inputs: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """The layer in floating point."""
        return self.geometry.apply(inputs, self.weight, self.bias, output_size, multiply=linear)

    @property
    def shares_grid(self) -> bool:
        """Whether all groups of a convolution have one scale."""
        return isinstance(self.bits.granularity, PerTensor) and self.geometry.groups > 1

    def generator(self, seed: int, number: int) -> torch.Generator:
        """Draws positions of this layer's `number`-th calibration input; another for each layer and input."""
        return torch.Generator().manual_seed(seed * 1_000_003 + self.index * 1009 + number)


def layer_jobs(
    network: nn.Module, seen: Observation, recipe: Recipe, ignore: Mapping[str, str]
) -> tuple[dict[str, LayerJob], dict[str, str]]:
    """The jobs by layer name, in the order of the network, and what stays in floating point, each with the reason.

    `ignore` maps name patterns of layers to leave in floating point to the reason. Raises `UserError` for a pattern of
    the recipe that fits no layer.
    """
    kept = dict(_weights_outside_layers(network))
    modules = {name: module for name, module in network.named_modules() if isinstance(module, QUANTIZABLE)}
    recipe.require_layers(modules)
    for name, module in modules.items():
        reason = _reason_to_keep(name, module, seen, ignore)
        if reason:
            kept[name] = reason
    names = sorted(modules.keys() - kept.keys(), key=seen.order.index)
    live = {name: _live(name, modules[name], seen, recipe) for name in names}
    live |= dict.fromkeys((names[0], names[-1]), Live()) if names else {}
    sizes = {name: modules[name].weight.numel() for name in names}
    chosen = recipe.weights_for(sizes, {name: part.share() for name, part in live.items()})
    kept |= {name: "kept by the recipe" for name, bits in chosen.items() if bits is None}
    wanted = {name: bits for name, bits in chosen.items() if bits is not None}
    activations = recipe.activations_for(list(wanted))
    jobs = {}
    for index, (name, bits) in enumerate(chosen.items()):
        if bits is None:
            continue
        module = modules[name]
        weight = module.weight.detach().float()
        bias = None if module.bias is None else module.bias.detach().float()
        geometry = LayerGeometry.of(module)
        inputs = _for_integer_kernel(activations[name], geometry)
        jobs[name] = LayerJob(name, index, module, weight, bias, bits, geometry, live[name], inputs)
    return jobs, kept


def _for_integer_kernel(settings: IntActivations | None, geometry: LayerGeometry) -> IntActivations | None:
    """Integer kernels of transposed convolutions, which there are in 3-D, take no zero point."""
    one_scale = settings is not None and settings.mode == "static" and isinstance(settings.granularity, PerTensor)
    return replace(settings, symmetric=True) if one_scale and geometry.kind == "ConvTranspose3d" else settings


def _weights_outside_layers(network: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            kind = type(module).__name__
            for key, _ in module.named_parameters(recurse=False):
                if "weight" in key:
                    yield f"{name}.{key}", f"a weight of nn.{kind}, not of a layer"


def _live(name: str, module: nn.Module, seen: Observation, recipe: Recipe) -> Live:
    if not recipe.drop_dead_channels or recipe.scope == "layer" or name not in seen.variances:
        return Live()
    folded = recipe.fold_batch_norm and name in seen.batch_norms
    weight = module.weight.detach().float()
    return live_channels(weight, Layout.of(module), seen.variances[name], recipe.weights.bits, folded=folded)


def _reason_to_keep(name: str, module: nn.Module, seen: Observation, ignore: Mapping[str, str]) -> str:
    for pattern, reason in ignore.items():
        if fnmatchcase(name, pattern):
            return reason
    if not is_quantizable(module):
        return "its forward pass is not that of a plain layer"
    if hasattr(module, "parametrizations"):
        return "its weight is computed from other parameters"
    if name not in seen.calls:
        return "not called as a layer on the calibration inputs"
    return ""
