"""Low rank: the largest singular components of a weight stay in floating point, the rest is easier to round.

SVDQuant (Li et al. 2024), where the branch sees the same smoothed input; MedQuanBench takes rank 4.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from medquant.geometry import LayerGeometry


def branch_shapes(geometry: LayerGeometry, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two weights of an ungrouped layer's branch: into `rank` channels, and out of them.

    A convolution's branch has its kernel on the way in, a transposed convolution's on the way out.
    """
    first, second, *kernel = geometry.weight_shape
    if geometry.layout.transposed:
        return (rank, first), (rank, second, *kernel)
    return (rank, second, *kernel), (first, rank)


def largest_components(
    weight: torch.Tensor, geometry: LayerGeometry, rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The branch's two weights, and what they leave of the weight.

    Exact: the rest is taken from the factors as they are stored, in half precision where that holds them.
    """
    layout = geometry.layout
    (matrix,) = layout.to_matrices(weight)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    down, up = ((u[:, :rank] * root).T.contiguous(), (root[:, None] * v[:rank]).contiguous())
    down, up = (part.half().float() if bool(torch.isfinite(part.half()).all()) else part for part in (down, up))
    rest = layout.to_weight((matrix - down.T @ up)[None])
    into, out = branch_shapes(geometry, rank)
    return down.reshape(into), (up if layout.transposed else up.T.contiguous()).reshape(out), rest


def branch(
    inputs: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    geometry: LayerGeometry,
    output_size: object = None,
) -> torch.Tensor:
    """What the branch adds to the layer's output; arguments as the layer's."""
    if geometry.kind == "Linear":
        return functional.linear(functional.linear(inputs, down), up)
    dims = int(geometry.kind[-2])
    pointwise = getattr(functional, f"conv{dims}d")
    ones = [1] * dims
    if geometry.layout.transposed:
        few = pointwise(inputs, down.reshape(*down.shape, *ones))
        return replace(geometry, weight_shape=tuple(up.shape)).apply(few, up, None, output_size)
    few = replace(geometry, weight_shape=tuple(down.shape)).apply(inputs, down, None)
    return pointwise(few, up.reshape(*up.shape, *ones))
