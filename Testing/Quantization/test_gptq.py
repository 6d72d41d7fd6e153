"""Error feedback against the textbook: invert what is left of H after every row."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from medquant.factorize import inverse_factor
from medquant.grid import Grid, initial_grid
from medquant.recipe import IntWeights
from medquant.solvers.gptq import gptq


def textbook(gram: torch.Tensor, weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Optimal brain quantization with all columns in the order of the rows (GPTQ, equations 2 and 3), O(m^4)."""
    rest, codes = weight.clone(), torch.empty_like(weight)
    m = len(weight)
    scale, offset = grid.rows(0, m)
    for i in range(m):
        inverse = torch.linalg.inv(gram[i:, i:])
        codes[i] = ((rest[i] - offset[i]) / scale[i]).round().clamp(0, grid.levels - 1)
        error = (rest[i] - offset[i] - scale[i] * codes[i]) / inverse[0, 0]
        rest[i:] -= torch.outer(inverse[:, 0], error)
    return codes


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("m", [1, 5, 128, 150])
def test_codes_equal_those_of_the_textbook(bits: int, m: int) -> None:
    generator = torch.Generator().manual_seed(m)
    x = torch.randn(2 * m + 20, m, generator=generator, dtype=torch.float64) @ torch.randn(
        m, m, generator=generator, dtype=torch.float64
    )
    weight = torch.randn(m, 6, generator=generator, dtype=torch.float64)
    gram = x.T @ x / len(x)
    gram += 0.01 * gram.diagonal().mean() * torch.eye(m, dtype=torch.float64)
    groups = torch.arange(m) * 2 // m
    grid = initial_grid(weight, gram.diagonal(), IntWeights(bits), groups)
    before = weight.clone()
    found = gptq(inverse_factor(gram), weight, grid)
    assert torch.equal(found, textbook(gram, weight, grid))
    assert torch.equal(weight, before)


def test_the_factor_is_that_of_the_inverse() -> None:
    x = torch.randn(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = x.T @ x
    factor = inverse_factor(gram)
    assert_close(factor.T @ factor, torch.linalg.inv(gram))
    assert torch.equal(factor, factor.triu())


def test_uncorrelated_inputs_leave_plain_rounding() -> None:
    weight = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    grid = initial_grid(weight, torch.ones(10), IntWeights(3), torch.zeros(10, dtype=torch.long))
    assert torch.equal(gptq(inverse_factor(torch.diag(torch.arange(1.0, 11.0))), weight, grid), grid.encode(weight))
