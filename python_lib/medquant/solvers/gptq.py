"""GPTQ: round one row, let all the rows after it make up for the error.

Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", 2022.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from medquant.grid import Grid
from medquant.solvers.coordinate import BLOCK


def gptq(
    factor: torch.Tensor, target: torch.Tensor, grid: Grid, check: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Codes (m, n) as floating-point integers, rows taken in the order in which they stand.

    `factor` is `inverse_factor` of the damped Gram matrix in the same order; `target` is not modified.
    """
    m = target.shape[0]
    rest = target.clone()
    codes = torch.empty_like(target)
    top = grid.levels - 1
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        check()
        scale, offset = grid.rows(start, stop)
        errors = torch.empty_like(rest[start:stop])
        for row in range(start, stop):
            k = row - start
            code = ((rest[row] - offset[k]) / scale[k]).round_().clamp_(0, top)
            codes[row] = code
            errors[k] = (rest[row] - torch.addcmul(offset[k], scale[k], code)) / factor[row, row]
            if row + 1 < stop:
                rest[row + 1 : stop].addr_(factor[row, row + 1 : stop], errors[k], alpha=-1)
        rest[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return codes
