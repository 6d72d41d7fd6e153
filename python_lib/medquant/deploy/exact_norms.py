"""Instance and group norms whose sums are exact enough for large patches.

OpenVINO's normalisation adds up all numbers of a channel one after the other in single precision: of a patch of 96^3
voxels that is 884,736 of them, and after a U-Net's 22 norms the output was .3 % wrong, where PyTorch's is by a
millionth. Here each plane is averaged by itself, then the planes: sums of thousands and of hundreds.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from medquant.network_edit import set_module

LARGE = 2**15
"""Where a channel has no more numbers than this the runtime's own operator is as good, and faster."""
_POOLS = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


class StagedNorm(nn.Module):
    """`nn.InstanceNorm2d`, `nn.InstanceNorm3d` or `nn.GroupNorm`, averaged in two stages."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    @staticmethod
    def can(module: nn.Module) -> bool:
        """Whether a module is such a norm, of each input by itself."""
        if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d):
            return not module.track_running_stats
        return isinstance(module, nn.GroupNorm)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The normalised values (batch, channels, *spatial)."""
        size = [int(length) for length in values.shape]
        if len(size) - 2 not in _POOLS or math.prod(size[2:]) <= LARGE:
            return self.norm(values)
        groups = self.norm.num_groups if isinstance(self.norm, nn.GroupNorm) else size[1]
        centred = values - self._mean(values, size, groups)
        variance = self._mean(centred * centred, size, groups)
        factor = torch.rsqrt(variance + self.norm.eps)
        shape = [1, size[1], *[1] * (len(size) - 2)]
        if self.norm.weight is not None:
            factor = factor * self.norm.weight.reshape(shape)
        scaled = centred * factor
        return scaled if self.norm.bias is None else scaled + self.norm.bias.reshape(shape)

    def _mean(self, values: torch.Tensor, size: list[int], groups: int) -> torch.Tensor:
        """The mean of each channel's group, (batch, channels, 1, ...)."""
        # By a pooling, as consecutive reductions would be merged into one again.
        planes = _POOLS[len(size) - 2](values, (1, *size[3:]))
        mean = planes.flatten(2).mean(2)
        if groups != size[1]:
            mean = mean.reshape(size[0], groups, -1).mean(2, keepdim=True).expand(-1, -1, size[1] // groups)
        return mean.reshape(size[0], size[1], *[1] * (len(size) - 2))


def stage_norms(network: nn.Module) -> None:
    """Exchange the norms of a network (a twin of the user's) for staged ones."""
    for name, module in list(network.named_modules()):
        if StagedNorm.can(module):
            set_module(network, name, StagedNorm(module))
