"""Batch norms folded into the convolutions that they follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from medquant.matrices import TRANSPOSED
from medquant.network_edit import set_module
from medquant.observe import Observation

TOLERANCE = 1e-3
"""By how much, relative to its largest value, the output may change."""


def fold_batch_norms(network: nn.Module, seen: Observation, forward: Callable[[], torch.Tensor]) -> None:
    """Fold the batch norms that `seen` found; `forward` gives the network's output as it was when seen.

    Where that changes the output, because a convolution's output is used before its norm as well, the norms stay where
    they are and `seen` forgets them.
    """
    if not seen.batch_norms:
        return
    folded = [network.get_submodule(name) for name in seen.batch_norms]
    before = [(layer, layer.weight, layer.bias) for layer in folded]
    norms = {name: network.get_submodule(name) for name in seen.batch_norms.values()}
    for convolution, norm in seen.batch_norms.items():
        layer = network.get_submodule(convolution)
        weight, bias = fold_batch_norm(layer, norms[norm])
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)
        set_module(network, norm, nn.Identity())
    with torch.inference_mode():
        output = forward()
    size = seen.output.abs().max().clamp_min(1e-6)
    if float((output - seen.output).abs().max() / size) <= TOLERANCE:
        return
    for layer, weight, bias in before:
        layer.weight, layer.bias = weight, bias
    for name, norm in norms.items():
        set_module(network, name, norm)
    seen.batch_norms.clear()


def fold_batch_norm(convolution: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution that does what `convolution` and then `norm` (in evaluation) do."""
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -norm.running_mean * factor
    if norm.bias is not None:
        shift = shift + norm.bias
    if convolution.bias is not None:
        shift = shift + convolution.bias * factor
    shape = [1] * convolution.weight.ndim
    if isinstance(convolution, TRANSPOSED):
        per_group = factor.reshape(convolution.groups, -1).repeat_interleave(
            convolution.in_channels // convolution.groups, 0
        )
        return (convolution.weight * per_group.reshape(*per_group.shape, *shape[2:])).detach(), shift.detach()
    shape[0] = -1
    return (convolution.weight * factor.reshape(shape)).detach(), shift.detach()
