"""Coordinate descent by Gram matrices against the explicit algorithm of the paper, and its properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medquant.bench.explicit_comq import explicit_comq
from medquant.bench.solver import agreement
from medquant.grid import Grid, initial_grid
from medquant.recipe import IntWeights
from medquant.solvers.coordinate import objective, refit, sweep


def problem(m: int = 150, n: int = 12, tokens: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features (N, m), some channels strong, and a weight (m, n). More rows than one block of the sweep."""
    generator, dtype = torch.Generator().manual_seed(seed), torch.float64
    latent = torch.randn(tokens, max(1, m // 4), generator=generator, dtype=dtype)
    mixing = torch.randn(max(1, m // 4), m, generator=generator, dtype=dtype)
    strength = torch.exp(torch.randn(m, generator=generator, dtype=dtype))
    x = (latent @ mixing + 0.5 * torch.randn(tokens, m, generator=generator, dtype=dtype)) * strength
    return x, torch.randn(m, n, generator=generator, dtype=dtype) / m**0.5


def plain_grid(weight: torch.Tensor, weights: IntWeights, groups: torch.Tensor | None = None, share: int = 1) -> Grid:
    groups = torch.zeros(len(weight), dtype=torch.long) if groups is None else groups
    return initial_grid(
        weight, torch.ones(len(weight), dtype=weight.dtype), weights, groups, share=share, factors=(1.0,)
    )


def orders(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.arange(x.shape[1]), (x * x).sum(0).argsort(descending=True, stable=True)]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_equal_those_of_the_explicit_algorithm(bits: int) -> None:
    for seed in range(2):
        x, weight = problem(seed=seed)
        grid = plain_grid(weight, IntWeights(bits, zero_point="integer"))
        for order in orders(x):
            wanted, _ = explicit_comq(x, weight, grid.scale[0], grid.offset[0], bits, order=order)
            gram = (x.T @ x)[order][:, order]
            found = sweep(gram, weight[order], torch.zeros_like(weight), grid.reorder(order))
            assert torch.equal(found, wanted[order])


def test_codes_in_single_precision() -> None:
    """Ties fall either way there, and at 8 bits one code drags others along."""
    mean, _ = agreement(torch.float32, inputs=192, outputs=64, tokens=1024)
    assert mean >= 0.999


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("m", [1, 7, 128, 129, 260])
def test_several_sweeps_with_scale_updates(bits: int, m: int) -> None:
    x, weight = problem(m, 5)
    gram = x.T @ x
    grid = plain_grid(weight, IntWeights(bits, zero_point="integer"))
    start = grid.scale[0], grid.offset[0]
    zero = (grid.offset / grid.scale).round()
    error = torch.zeros_like(weight)
    for sweeps in (1, 2, 3):
        wanted, scale = explicit_comq(x, weight, *start, bits, sweeps=sweeps, update_scales=True)
        codes = sweep(gram, weight, error, grid)
        grid = refit(gram, weight, codes, grid, zero)
        error = weight - grid.decode(codes)
        assert torch.equal(codes, wanted)
        torch.testing.assert_close(grid.scale[0], scale)
        torch.testing.assert_close(grid.offset, grid.scale * zero)


def test_the_error_is_kept_and_the_rest_is_left_alone() -> None:
    x, weight = problem()
    gram, grid = x.T @ x, plain_grid(weight, IntWeights(3))
    before = gram.clone(), weight.clone(), grid.scale.clone()
    error = torch.zeros_like(weight)
    codes = sweep(gram, weight, error, grid)
    torch.testing.assert_close(error, weight - grid.decode(codes))
    refit(gram, weight, codes, grid, None)
    assert torch.equal(gram, before[0]) and torch.equal(weight, before[1]) and torch.equal(grid.scale, before[2])


KINDS = (
    IntWeights(zero_point="real"),
    IntWeights(zero_point="integer"),
    IntWeights(zero_point="half"),
    IntWeights(symmetric=True),
)


@given(
    st.sampled_from(KINDS),
    st.integers(2, 5),
    st.integers(1, 30),
    st.sampled_from([1, 2, 6]),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_no_step_makes_the_objective_grow(
    kind: IntWeights, bits: int, m: int, share: int, groups: int, seed: int
) -> None:
    x, weight = problem(m, 6, tokens=50, seed=seed)
    gram = x.T @ x + 1e-3 * torch.eye(m, dtype=x.dtype)
    row_group = torch.arange(m) * min(groups, m) // m
    weights = replace(kind, bits=bits)
    grid = plain_grid(weight, weights, row_group, share)
    zero: float | torch.Tensor | None = None
    if weights.symmetric:
        zero = -float(2 ** (bits - 1))
    elif weights.zero_point == "half":
        zero = -(2**bits - 1) / 2
    elif weights.zero_point == "integer":
        zero = (grid.offset / grid.scale).round()
    codes = grid.encode(weight)
    error = weight - grid.decode(codes)
    last = objective(gram, error).sum()
    for _ in range(3):
        codes = sweep(gram, weight, error, grid)
        now = objective(gram, error).sum()
        assert now <= last * (1 + 1e-9) + 1e-12
        grid = refit(gram, weight, codes, grid, zero, share)
        error = weight - grid.decode(codes)
        last = objective(gram, error).sum()
        assert last <= now * (1 + 1e-9) + 1e-12
        assert (grid.scale > 0).all()
        shared = grid.scale.reshape(len(grid.scale), -1, share)
        assert (shared == shared[..., :1]).all()


def test_refitted_scales_are_least_squares() -> None:
    """Against least squares on X itself, for a free and for a fixed zero point."""
    x, weight = problem(20, 4, tokens=90)
    gram, grid = x.T @ x, plain_grid(weight, IntWeights(3, zero_point="half"))
    codes = grid.encode(weight)
    free = refit(gram, weight, codes, grid, None)
    fixed = refit(gram, weight, codes, grid, -3.5)
    for j in range(4):
        design = torch.stack([x @ codes[:, j], x.sum(1)], 1)
        slope, offset = torch.linalg.lstsq(design, x @ weight[:, j : j + 1]).solution[:, 0]
        torch.testing.assert_close(free.scale[0, j], slope)
        torch.testing.assert_close(free.offset[0, j], offset)
        column = (x @ (codes[:, j] - 3.5))[:, None]
        torch.testing.assert_close(
            fixed.scale[0, j], torch.linalg.lstsq(column, x @ weight[:, j : j + 1]).solution[0, 0]
        )


def test_a_coordinate_takes_the_level_that_is_best_given_all_others() -> None:
    """Every code by trying all levels, on a problem of four rows."""
    x, weight = problem(4, 3, tokens=30)
    gram, grid = x.T @ x, plain_grid(weight, IntWeights(2))
    value = weight.clone()
    codes = sweep(gram, weight, torch.zeros_like(weight), grid)
    for i in range(4):
        scores = []
        for code in range(4):
            tried = value.clone()
            tried[i] = grid.offset[0] + code * grid.scale[0]
            scores.append(((x @ (weight - tried)) ** 2).sum(0))
        best = torch.stack(scores).argmin(0)
        assert torch.equal(codes[i].long(), best)
        value[i] = grid.offset[0] + best * grid.scale[0]


def test_cancel_is_heard_in_every_block() -> None:
    x, weight = problem(300, 2)
    calls = []
    sweep(x.T @ x, weight, torch.zeros_like(weight), plain_grid(weight, IntWeights(4)), lambda: calls.append(1))
    assert len(calls) == 3
