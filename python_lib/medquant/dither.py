"""Ordered dither: why few levels of activations are enough for images.

Tissue is nearly constant over many voxels, and so are the features that a network makes of it. Rounded, all of them err
by the same amount in the same direction, and a convolution that sums over its kernel sums the error with them. Moving
the grid by another part of a step at each place of a small pattern (Bayer 1973, for halftone prints) turns that into an
error that changes sign from voxel to voxel and cancels in the sum: a mean over 2 x 2 x 2 voxels has eight times as many
levels as a voxel. It costs an addition before rounding; the codes are integers as before.
"""

from __future__ import annotations

import torch

_ORDER = {1: (0, 1), 2: (0, 2, 3, 1), 3: (0, 4, 6, 2, 5, 1, 3, 7)}
"""Rank of each corner of a cell of two voxels a side: neighbours are far apart in rank."""


def ordered_dither(size: tuple[int, ...], device: torch.device | str = "cpu") -> torch.Tensor:
    """Parts of a step (*size) to add before rounding, for one to three axes.

    They lie evenly between -1/2 and 1/2 without reaching either, so that zero still goes to zero.
    """
    ranks = torch.tensor(_ORDER[len(size)])
    corner = torch.zeros((), dtype=torch.long)
    for axis, length in enumerate(size):
        place = torch.arange(length) % 2
        corner = 2 * corner + place.reshape([-1 if a == axis else 1 for a in range(len(size))])
    return ((2 * ranks[corner].float() + 1) / (2 * len(ranks)) - 0.5).to(device)
