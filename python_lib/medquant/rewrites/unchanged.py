"""Whether a network still computes what it did before its layers were rewritten."""

from __future__ import annotations

import torch

TOLERANCE = 1e-4
"""By how much, relative to its largest value, the output may change: what sums in another order leave."""


def relative_change(output: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a part of the largest value that is expected."""
    return float((output - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
