"""Where levels are placed: ranges, kinds of grid, sharing, constant columns."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medquant.grid import Grid, initial_grid, sorted_grid, symmetric_zero
from medquant.recipe import IntWeights

KINDS = {
    "real": IntWeights(zero_point="real"),
    "integer": IntWeights(zero_point="integer"),
    "half": IntWeights(zero_point="half"),
    "symmetric": IntWeights(symmetric=True),
}


def of_kind(kind: str, bits: int) -> IntWeights:
    base = KINDS[kind]
    return IntWeights(bits, base.granularity, base.symmetric, base.zero_point)


def matrix(m: int = 24, n: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_group(values: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(values), dtype=torch.long)


def place(values: torch.Tensor, weights: IntWeights, **options: object) -> Grid:
    importance = torch.ones(len(values), dtype=values.dtype)
    return initial_grid(values, importance, weights, options.pop("row_group", one_group(values)), **options)


@given(st.sampled_from(sorted(KINDS)), st.integers(2, 8), st.integers(0, 99))
def test_encode_takes_the_nearest_level(kind: str, bits: int, seed: int) -> None:
    values = matrix(seed=seed)
    grid = place(values, of_kind(kind, bits))
    every = torch.stack([grid.decode(torch.full_like(values, code)) for code in range(2**bits)])
    nearest = (every - values).abs().amin(0)
    codes = grid.encode(values)
    torch.testing.assert_close((grid.decode(codes) - values).abs(), nearest)
    assert torch.equal(codes, codes.round()) and codes.min() >= 0 and codes.max() <= 2**bits - 1


@given(st.integers(2, 8), st.integers(0, 99))
def test_without_clipping_the_range_is_covered(bits: int, seed: int) -> None:
    values = matrix(seed=seed)
    for kind in KINDS:
        grid = place(values, of_kind(kind, bits), factors=(1.0,))
        error = (grid.decode(grid.encode(values)) - values).abs()
        # An integer zero point may push the range by half a step.
        assert (error <= grid.scale * (1.0 if kind == "integer" else 0.5) + 1e-9).all(), kind


@given(st.sampled_from(sorted(KINDS)), st.integers(2, 4), st.integers(0, 99))
def test_searching_the_clipping_never_hurts(kind: str, bits: int, seed: int) -> None:
    values = matrix(seed=seed) ** 3
    importance = torch.rand(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01

    def error(factors: tuple[float, ...]) -> torch.Tensor:
        grid = initial_grid(values, importance, of_kind(kind, bits), one_group(values), factors=factors)
        return (importance[:, None] * (grid.decode(grid.encode(values)) - values) ** 2).sum(0)

    assert (error((1.0, 0.8, 0.6, 0.4)) <= error((1.0,)) * (1 + 1e-4)).all()


def test_the_kinds_of_zero_point() -> None:
    values = matrix() + 0.7
    for bits in (2, 4, 8):
        symmetric, half = (place(values, of_kind(kind, bits)) for kind in ("symmetric", "half"))
        assert torch.equal(symmetric.offset, -symmetric.scale * 2 ** (bits - 1))
        assert torch.equal(half.offset, -half.scale * (2**bits - 1) / 2)
        integer = place(values, of_kind("integer", bits))
        steps = integer.offset / integer.scale
        torch.testing.assert_close(steps, steps.round())
        assert symmetric_zero(of_kind("real", bits)) is None
    # Zero is a level of the paper's grid, and no level of the half-integer one.
    assert (place(values, of_kind("half", 2)).decode(torch.full_like(values, 1.0)) != 0).all()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("value", [0.0, 3.7, -0.02, 1e-30, 1e6])
def test_constant_columns_are_represented(kind: str, value: float) -> None:
    values = matrix(dtype=torch.float32)
    values[:, 2] = value
    for bits in (2, 4, 8):
        grid = place(values, of_kind(kind, bits))
        found = grid.decode(grid.encode(values))
        assert torch.isfinite(found).all() and (grid.scale > 0).all()
        # Half the step of the largest level at worst: on a half-integer grid of two bits zero has no level.
        torch.testing.assert_close(found[:, 2], values[:, 2], rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["real", "integer"])
def test_columns_that_lie_far_from_zero(kind: str, bits: int) -> None:
    """Averaging kernels of depth-wise layers: all weights of one sign and nearly alike."""
    values = 0.1 + 0.02 * torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    grid = place(values, of_kind(kind, bits), factors=(1.0,))
    relative = (grid.decode(grid.encode(values)) - values).norm() / values.norm()
    assert relative < 0.6 / 2**bits


def test_groups_have_grids_of_their_own() -> None:
    values = matrix(12, 3)
    groups = torch.arange(12) % 3
    grid = place(values, of_kind("real", 4), row_group=groups)
    assert grid.scale.shape == (3, 3)
    for g in range(3):
        alone = place(values[groups == g], of_kind("real", 4))
        assert torch.equal(grid.scale[g], alone.scale[0]) and torch.equal(grid.offset[g], alone.offset[0])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    codes = grid.encode(values)
    assert torch.equal(grid.reorder(order).encode(values[order]), codes[order])
    assert torch.equal(grid.reorder(order).decode(codes[order]), grid.decode(codes)[order])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_shared_columns_have_one_grid(kind: str) -> None:
    values = matrix(10, 6)
    grid = place(values, of_kind(kind, 3), share=3)
    together = values.reshape(10, 2, 3).transpose(1, 2).reshape(30, 2)
    alone = place(together, of_kind(kind, 3))
    torch.testing.assert_close(grid.scale, alone.scale.repeat_interleave(3, 1))
    torch.testing.assert_close(grid.offset, alone.offset.repeat_interleave(3, 1))


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 99))
def test_a_layer_sorted_by_value(m: int, n: int, seed: int) -> None:
    """The paper as read: run r holds the r-th m smallest weights, and no other grid is wider than its run."""
    values = matrix(m, n, seed)
    grid = sorted_grid(values, torch.ones(m, dtype=torch.float64), IntWeights(bits=2))
    runs = [values[grid.row_group == r] for r in range(n)]
    assert all(len(run) == m for run in runs)
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(runs))
    found = grid.decode(grid.encode(values))
    for r, run in enumerate(runs):
        inside = found[grid.row_group == r]
        assert (inside - run).abs().max() <= (run.max() - run.min()) + 1e-12


def test_sorted_columns_err_less_than_columns_as_they_stand() -> None:
    values = matrix(64, 32)
    ones = torch.ones(64, dtype=torch.float64)
    errors = []
    for grid in (sorted_grid(values, ones, IntWeights(bits=2)), place(values, IntWeights(bits=2))):
        errors.append(float((grid.decode(grid.encode(values)) - values).norm()))
    assert errors[0] < 0.2 * errors[1]
