"""Channels of a weight multiplied by factors, whatever the kind of layer."""

from __future__ import annotations

import torch

from medquant.matrices import Layout


def inputs_multiplied(weight: torch.Tensor, layout: Layout, factors: torch.Tensor) -> torch.Tensor:
    """The weight with all that meets an input channel multiplied by its factor (channels of all groups,)."""
    matrices = layout.to_matrices(weight)
    rows = factors.reshape(layout.groups, -1).repeat_interleave(layout.rows // layout.inputs, 1)
    return layout.to_weight(matrices * rows[:, :, None])


def outputs_divided(weight: torch.Tensor, layout: Layout, factors: torch.Tensor) -> torch.Tensor:
    """The weight with all that makes an output channel divided by its factor (channels of all groups,)."""
    matrices = layout.to_matrices(weight)
    columns = factors.reshape(layout.groups, -1).repeat_interleave(layout.share, 1)
    return layout.to_weight(matrices / columns[:, None, :])


def reach_of_inputs(weight: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Largest absolute weight that meets each input channel (channels of all groups,)."""
    return layout.to_matrices(weight).reshape(layout.groups * layout.inputs, -1).abs().amax(1)


def reach_of_outputs(weight: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Largest absolute weight that makes each output channel (channels of all groups,)."""
    return layout.to_matrices(weight).abs().amax(1).reshape(layout.outputs, -1).amax(1)
