"""Cholesky factors of Gram matrices that may be singular, or nearly so, in the precision at hand.

In blocks: most of the work is then matrix products, and a large factorization can be stopped on the way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from medquant.products import linear, product

BLOCK = 1024


def cholesky(gram: torch.Tensor, damping: float, check: Callable[[], None] = lambda: None) -> torch.Tensor:
    """Lower factor (m, m) of `gram` + damping x mean(diag) x identity.

    Inputs that hardly vary leave nothing but rounding noise in H; the damping grows tenfold until the factor exists.
    `check` raises to stop.
    """
    mean = gram.diagonal().abs().mean()
    mean = mean if mean > torch.finfo(gram.dtype).tiny else torch.ones_like(mean)
    for _ in range(12):
        damped = gram.clone()
        damped.diagonal().add_(damping * mean)
        if _factorize(damped, check):
            return damped
        damping = max(10 * damping, 1e-6)
    return torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * mean.sqrt()


def _factorize(matrix: torch.Tensor, check: Callable[[], None]) -> bool:
    """Replace a symmetric matrix by its lower factor; False where it is not positive definite."""
    size = len(matrix)
    for start in range(0, size, BLOCK):
        check()
        stop = min(start + BLOCK, size)
        panel, before = matrix[start:, start:stop], matrix[start:, :start]
        if start:
            panel -= linear(before, before[: stop - start])
        corner, failed = torch.linalg.cholesky_ex(panel[: stop - start])
        # What is not finite anywhere in a row is not finite on its diagonal either.
        if failed or not bool(torch.isfinite(corner.diagonal()).all()):
            return False
        panel[: stop - start] = corner
        below = panel[stop - start :]
        below.copy_(torch.linalg.solve_triangular(corner.T, below, upper=True, left=False))
        matrix[start:stop, stop:] = 0
    return True


def inverse_factor(gram: torch.Tensor, check: Callable[[], None] = lambda: None) -> torch.Tensor:
    """Upper Cholesky factor U (m, m) of the inverse of a positive definite `gram`: gram^-1 = U^T U.

    With both axes reversed the lower factor of `gram` is an upper one, and its inverse is U.
    """
    return _inverse_upper(cholesky(gram.flip(0, 1), 0.0, check).flip(0, 1), check)


def _inverse_upper(matrix: torch.Tensor, check: Callable[[], None]) -> torch.Tensor:
    size = len(matrix)
    if size <= BLOCK:
        check()
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        return torch.linalg.solve_triangular(matrix, identity, upper=True)
    half = size // 2
    upper, lower = _inverse_upper(matrix[:half, :half], check), _inverse_upper(matrix[half:, half:], check)
    inverse = torch.zeros_like(matrix)
    inverse[:half, :half], inverse[half:, half:] = upper, lower
    check()
    inverse[:half, half:] = product(product(upper, matrix[:half, half:]), lower).neg_()
    return inverse
