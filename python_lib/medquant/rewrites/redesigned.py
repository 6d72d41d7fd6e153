"""A network some of whose convolutions were exchanged for pointwise ones: which, and what they look like."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from medquant.matrices import is_quantizable, padding_sides
from medquant.network_edit import set_module


def reads_one_plane(module: nn.Module) -> bool:
    """Whether it is a 3-D convolution of one plane and neighbours within it, 1x3x3 in any order of the axes.

    Padding must keep the size, so that a pointwise convolution of the same stride gives as many outputs.
    """
    if not isinstance(module, nn.Conv3d) or not is_quantizable(module):
        return False
    kernel = module.kernel_size
    around = [tuple(pair) for pair in padding_sides(module.padding, kernel, module.dilation)]
    same = [(d * (k - 1) // 2,) * 2 for k, d in zip(kernel, module.dilation, strict=True)]
    return sorted(kernel)[0] == 1 < sorted(kernel)[1] and all(k % 2 for k in kernel) and around == same


def pointwise(module: nn.Conv3d) -> nn.Conv3d:
    """A 1x1x1 convolution for its place: as many channels, groups and outputs; its weights are to be filled in."""
    return nn.Conv3d(
        module.in_channels,
        module.out_channels,
        1,
        stride=module.stride,
        groups=module.groups,
        bias=module.bias is not None,
        device=module.weight.device,
        dtype=module.weight.dtype,
    )


def exchange(network: nn.Module, layers: Iterable[str]) -> None:
    """Put pointwise convolutions, whose weights are to be filled in, into the places called `layers`."""
    for name in layers:
        set_module(network, name, pointwise(network.get_submodule(name)))
