"""Rotation: the channels of a layer's input are mixed by a Hadamard matrix, which its weights undo.

QuaRot (Ashkboos et al. 2024) and MedQuanBench, appendix C: what stands out in one channel is spread over all of them.
The matrix H is orthogonal and its own inverse, so W x = (W H) (H x). It follows from its order, and is not stored.
"""

from __future__ import annotations

import torch

from medquant.matrices import Layout


def hadamard(order: int) -> torch.Tensor:
    """The orthonormal, symmetric Hadamard matrix (order, order) of Sylvester's construction."""
    matrix = torch.ones(1, 1)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / order**0.5


def order_for(channels: int, most: int) -> int:
    """The largest power of two that divides the channels, `most` at most; 1: nothing to mix."""
    return min(channels & -channels, most)


def rotated_weight(weight: torch.Tensor, layout: Layout, order: int) -> torch.Tensor:
    """The weight for an input whose channels were rotated in blocks of `order`."""
    matrices = layout.to_matrices(weight)
    blocks = matrices.reshape(layout.groups * layout.inputs // order, order, -1)
    return layout.to_weight((hadamard(order) @ blocks).reshape(matrices.shape))


def rotated(inputs: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """The input with the channels along `axis` mixed by `matrix` (order, order) in blocks that follow each other."""
    if axis % inputs.ndim == inputs.ndim - 1:
        return (inputs.unflatten(-1, (-1, len(matrix))) @ matrix).flatten(-2)
    blocks = inputs.flatten(axis + 1).unflatten(axis, (-1, len(matrix)))
    return (matrix @ blocks).reshape(inputs.shape)
