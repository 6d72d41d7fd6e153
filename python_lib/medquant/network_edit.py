"""Small operations on networks: twins, exchanged layers, passes that can be stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager

import torch
from torch import nn

HALF_PRECISION_FROM = 1024
"""Tensors outside the quantized layers are stored in half precision from so many numbers on."""


def structural_twin(network: nn.Module) -> nn.Module:
    """A copy of the modules that shares the tensors, so that layers can be exchanged without touching the original.

    A network on another device is copied to the processor.
    """
    if any(tensor.device.type != "cpu" for tensor in (*network.parameters(), *network.buffers())):
        return copy.deepcopy(network).cpu().eval()  # the solvers work on the processor
    return sharing_copy(network).eval()


def sharing_copy(network: nn.Module) -> nn.Module:
    """A copy of the modules, in the mode and on the device of the original, with the very tensors of it."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


@contextmanager
def stoppable(network: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Inside, `check` (which raises to stop) is called before every layer, so that a long pass ends within a second."""
    leaves = [module for module in network.modules() if next(module.children(), None) is None]
    hooks = [module.register_forward_pre_hook(lambda *_: check()) for module in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def set_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place called `name`, and in every other place where the module there stands.

    Networks register one layer under several names (nnU-Net's blocks: `conv` and `all_modules.0`) and call either.
    """
    old = network.get_submodule(name)
    places = [path for path, found in network.named_modules(remove_duplicate=False) if found is old]
    for path in places:
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, module)


def round_to_half(network: nn.Module, *, except_for: Container[str]) -> None:
    """Round the large tensors of all but the named layers to what half precision stores, so saving changes nothing."""
    for path, module in network.named_modules():
        if path in except_for:
            continue
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.numel() >= HALF_PRECISION_FROM and tensor.dtype == torch.float32:
                rounded = tensor.detach().half().float()
                if torch.isfinite(rounded).all():
                    setattr(module, name, nn.Parameter(rounded, requires_grad=False))


def stored_bits_of(tensor: torch.Tensor) -> int:
    """Bits that each number of a floating-point tensor takes on disk: 16 where that loses nothing."""
    exact = tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor)
    return 16 if exact else 8 * tensor.element_size()
