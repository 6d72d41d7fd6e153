"""COMQ written straight from the paper, with X itself: the oracle of the tests and the peer of the benchmark.

Permutation-COMQ, section 3.3, equations 3 to 5: U = X (W - W_q) is kept and updated row by row. It shares no code with
`medquant.solvers`.
"""

from __future__ import annotations

import torch


def explicit_comq(
    features: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    bits: int,
    *,
    sweeps: int = 1,
    order: torch.Tensor | None = None,
    update_scales: bool = False,
    as_printed: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (m, n) and scales (n,) for X (N, m), W (m, n), levels offset + scale * code with an offset of z * scale.

    Rows are taken in `order`, or as they stand. The starting point is W itself (Algorithm 1, line 1). `as_printed` does
    the steps of equation 4 one by one; else the outer products that cancel are left out, a third of the work.
    """
    zero = offset / scale
    residual = torch.zeros(features.shape[0], weight.shape[1], dtype=weight.dtype)
    value, codes = weight.clone(), torch.zeros_like(weight)
    norms = (features * features).sum(0)
    rows = range(len(weight)) if order is None else order.tolist()
    for _ in range(sweeps):
        for i in rows:
            x = features[:, i]
            if as_printed:
                # Equation 4: without row i, U lacks x_i (w_i - q_i); its projection on x_i gives the best value.
                residual -= torch.outer(x, weight[i] - value[i])
                best = x @ (residual + torch.outer(x, weight[i])) / norms[i]
                codes[i] = torch.clamp(torch.round((best - zero * scale) / scale), 0, 2**bits - 1)
                value[i] = scale * (codes[i] + zero)
                residual += torch.outer(x, weight[i] - value[i])
                continue
            best = value[i] + x @ residual / norms[i]
            codes[i] = torch.clamp(torch.round((best - zero * scale) / scale), 0, 2**bits - 1)
            new = scale * (codes[i] + zero)
            residual.addr_(x, value[i] - new)
            value[i] = new
        if update_scales:
            steps = features @ (codes + zero)
            scale = (steps * (features @ weight)).sum(0) / (steps * steps).sum(0)  # equation 5
            value = scale * (codes + zero)
            residual = features @ (weight - value)
    return codes, scale
