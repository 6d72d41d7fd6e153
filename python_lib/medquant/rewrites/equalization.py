"""Cross-layer equalization: a channel's range is balanced between the layer that makes it and those that read it.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", Eq. 11. Where a norm with
factors of its own lies in between, its factors and offsets take the place of the first layer's weights: a change of the
layer before an instance norm would be normalized away, but the norm's own factors reach the next layer. Skip
connections, sums and functions that are not positively homogeneous end a pair (`rewrites.chains`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import torch
from torch import nn

from medquant.matrices import Layout, is_quantizable
from medquant.rewrites.chains import Chain, find_chains
from medquant.rewrites.scaling import inputs_multiplied, outputs_divided, reach_of_inputs, reach_of_outputs
from medquant.rewrites.unchanged import TOLERANCE, relative_change

ROUNDS = 10
"""Layers stand in several pairs; so many rounds balance all of them."""
MOST = 1e3
"""Of a factor: channels that are nearly nothing on one side are not blown up without bound."""


def equalize(
    network: nn.Module, asked: Container[str], forward: Callable[[], torch.Tensor], expected: torch.Tensor
) -> dict[str, str]:
    """Balance the pairs whose readers are `asked` for. Returns reader -> the layer or norm that it was balanced with.

    `forward` gives the network's output, `expected` as it is now. The tensors are exchanged, not written to. Pairs are
    left as they were where the output would change.
    """
    found = [chain for chain in find_chains(network, forward) if all(name in asked for name in chain.readers)]
    if not found:
        return {}
    if _balanced(network, found, forward, expected):
        kept = found
    else:  # one of them reads its layers in a way that was not seen
        kept = [chain for chain in found if _balanced(network, [chain], forward, expected)]
    return {reader: chain.maker for chain in kept for reader in chain.readers}


def _balanced(
    network: nn.Module, chains: Sequence[Chain], forward: Callable[[], torch.Tensor], expected: torch.Tensor
) -> bool:
    """Balance these pairs, or leave them as they were where that changes the output."""
    names = {name for chain in chains for name in (chain.maker, *chain.readers)}
    before = [(network.get_submodule(name), dict(network.get_submodule(name)._parameters)) for name in names]
    given: list[torch.Tensor | float] = [1.0] * len(chains)
    for _ in range(ROUNDS):
        for number, chain in enumerate(chains):
            given[number] = given[number] * _balance(network, chain, given[number])
    with torch.inference_mode():
        output = forward()
    if relative_change(output, expected) <= TOLERANCE:
        return True
    for module, parameters in before:
        module._parameters.update(parameters)
    return False


def _balance(network: nn.Module, chain: Chain, given: torch.Tensor | float) -> torch.Tensor:
    """What makes each channel is divided by s = sqrt(r1 / r2), what reads it multiplied. Returns s (channels,).

    `given` is by what the channels were divided already. By both together a channel is divided by no less than its
    part of the largest that the readers got at first, times what the middle channel is divided by: a factor that all
    channels share changes nothing that rounding sees.
    """
    maker = network.get_submodule(chain.maker)
    readers = [network.get_submodule(name) for name in chain.readers]
    made = _reach_made(maker)
    read = torch.stack([reach_of_inputs(one.weight.detach().float(), Layout.of(one)) for one in readers]).amax(0)
    used = (made > 0) & (read > 0)
    wanted = given * torch.where(used, (made / read.clamp_min(1e-30)).sqrt(), 1.0)
    reach = torch.stack(chain.reaches).amax(0)
    least = reach / reach.max().clamp_min(1e-30) * wanted.median()
    factors = torch.where(used, (torch.maximum(wanted, least) / given).clamp(1 / MOST, MOST), 1.0)
    if is_quantizable(maker):
        _exchange(maker, "weight", outputs_divided(maker.weight.detach(), Layout.of(maker), factors))
    else:
        _exchange(maker, "weight", maker.weight.detach() / factors)
    if maker.bias is not None:
        _exchange(maker, "bias", maker.bias.detach() / factors)
    for one in readers:
        _exchange(one, "weight", inputs_multiplied(one.weight.detach(), Layout.of(one), factors))
    return factors


def _reach_made(maker: nn.Module) -> torch.Tensor:
    """Largest factor that makes each channel."""
    if is_quantizable(maker):
        return reach_of_outputs(maker.weight.detach().float(), Layout.of(maker))
    return maker.weight.detach().float().abs()


def _exchange(module: nn.Module, name: str, values: torch.Tensor) -> None:
    module.register_parameter(name, nn.Parameter(values, requires_grad=False))
