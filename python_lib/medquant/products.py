"""Matrix products in float32, by the faster of the two libraries that PyTorch has on board.

PyTorch multiplies matrices by MKL, which uses the wide registers of Intel's processors only. Its convolutions are
oneDNN's, which use what the processor has. A matrix product is a convolution with a kernel of one element, so the
large ones go that way: twice as fast on the AMD processor where it was measured. The arithmetic is the same.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

LEAST_ROWS = 256
LEAST_WEIGHTS = 2**14
"""Smaller products are left to MKL: preparing a convolution takes longer than they do."""

_BY_ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`functional.linear`: inputs (..., m) times the transpose of weight (n, m), plus bias (n,)."""
    n, m = weight.shape
    large = inputs.numel() >= LEAST_ROWS * m and n * m >= LEAST_WEIGHTS
    plain = inputs.dtype == weight.dtype == torch.float32 and inputs.device.type == weight.device.type == "cpu"
    if not (_BY_ONEDNN and large and plain):
        return functional.linear(inputs, weight, bias)
    rows = inputs.reshape(1, -1, 1, m).permute(0, 3, 1, 2)
    outputs = functional.conv2d(rows, weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], n)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right` of two matrices, (k, m) and (m, n)."""
    return linear(left, right.T)


@contextmanager
def quick_linears(network: nn.Module) -> Iterator[None]:
    """Inside, linear layers of `network` compute by `linear`, unless somebody has given them another forward."""
    plain = [module for module in network.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    for module in plain:
        module.forward = lambda input, layer=module: linear(input, layer.weight, layer.bias)
    try:
        yield
    finally:
        for module in plain:
            vars(module).pop("forward", None)
