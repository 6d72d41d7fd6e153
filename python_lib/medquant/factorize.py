"""Cholesky factors of Gram matrices that may be singular, or nearly so, in the precision at hand."""

from __future__ import annotations

import torch


def cholesky(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """Lower factor (m, m) of `gram` + damping x mean(diag) x identity.

    Inputs that hardly vary leave nothing but rounding noise in H; the damping grows tenfold until the factor exists.
    """
    mean = gram.diagonal().abs().mean()
    mean = mean if mean > torch.finfo(gram.dtype).tiny else torch.ones_like(mean)
    for _ in range(12):
        damped = gram.clone()
        damped.diagonal().add_(damping * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        # What is not finite anywhere in a row is not finite on its diagonal either.
        if not failed and bool(torch.isfinite(factor.diagonal()).all()):
            return factor
        damping = max(10 * damping, 1e-6)
    return torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * mean.sqrt()
