"""One matrix, one recipe: every method, granularity and kind of grid, and the cases that break naive solvers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medquant.granularity import PerChannel, PerGroup, PerTensor
from medquant.grid import sorted_grid
from medquant.recipe import METHODS, IntWeights, Method
from medquant.solvers.solve import Solution, damped, rows_to_groups, solve

KINDS = (
    IntWeights(zero_point="real"),
    IntWeights(zero_point="integer"),
    IntWeights(zero_point="half"),
    IntWeights(symmetric=True),
)
GRANULARITIES = (PerTensor(), PerChannel(), PerGroup(4), PerGroup(7))


def problem(m: int = 48, n: int = 8, seed: int = 0, tokens: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """H of correlated inputs of unequal strength, and a weight."""
    generator = torch.Generator().manual_seed(seed)
    rank = max(1, m // 3)
    x = torch.randn(tokens, rank, generator=generator) @ torch.randn(rank, m, generator=generator)
    x = (x + 0.7 * torch.randn(tokens, m, generator=generator)) * torch.exp(torch.randn(m, generator=generator))
    return x.T @ x / tokens, torch.randn(m, n, generator=generator) / m**0.5


def check_sane(solution: Solution, target: torch.Tensor, bits: int) -> None:
    assert solution.codes.dtype == torch.uint8 and solution.codes.shape == target.shape
    assert int(solution.codes.max()) < 2**bits
    assert torch.isfinite(solution.values()).all() and (solution.grid.scale > 0).all()
    assert solution.squared_error >= 0 and solution.squared_output >= 0


@given(
    st.sampled_from(METHODS),
    st.sampled_from(KINDS),
    st.sampled_from(GRANULARITIES),
    st.integers(2, 8),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_every_combination_is_sane_and_deterministic(
    method: Method, kind: IntWeights, grain: object, bits: int, m: int, n: int, share: int, seed: int
) -> None:
    gram, target = problem(m, n * share, seed)
    before = gram.clone(), target.clone()
    weights = replace(kind, bits=bits, granularity=grain)
    first, second = (solve(target, gram, weights, method=method, sweeps=2, share=share) for _ in range(2))
    check_sane(first, target, bits)
    assert torch.equal(first.codes, second.codes) and torch.equal(first.grid.scale, second.grid.scale)
    assert torch.equal(gram, before[0]) and torch.equal(target, before[1])
    error = (target - first.values()).double()
    exact = float((error * (damped(gram).double() @ error)).sum())
    assert first.squared_error == pytest.approx(exact, rel=1e-3, abs=1e-6)
    span = n * share if isinstance(grain, PerTensor) else share
    for numbers in (first.grid.scale, first.grid.offset):
        by_span = numbers.reshape(len(numbers), -1, span)
        assert (by_span == by_span[..., :1]).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", KINDS, ids=["real", "integer", "half", "symmetric"])
def test_more_work_errs_less(bits: int, kind: IntWeights) -> None:
    """On the objective that all of them minimise: rounding, then the paper's baseline, then the default."""
    weights = replace(kind, bits=bits)
    for seed in range(4):
        gram, target = problem(96, 16, seed)
        error = {method: solve(target, gram, weights, method=method).squared_error for method in METHODS}
        assert error["comq"] < error["rtn"]
        assert error["gptq"] < error["rtn"]
        assert error["permutation-comq"] <= error["comq"] * 1.02
        assert error["permutation-comq"] <= error["gptq"] * 1.02


@given(st.sampled_from(["comq", "permutation-comq"]), st.sampled_from(KINDS), st.integers(2, 4), st.integers(0, 99))
def test_more_sweeps_never_hurt(method: Method, kind: IntWeights, bits: int, seed: int) -> None:
    gram, target = problem(30, 6, seed)
    weights = replace(kind, bits=bits)
    errors = [solve(target, gram, weights, method=method, sweeps=sweeps).squared_error for sweeps in (1, 2, 4)]
    assert errors[1] <= errors[0] * (1 + 1e-4) and errors[2] <= errors[1] * (1 + 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_error_falls_with_bits_and_with_finer_grids(method: Method) -> None:
    gram, target = problem(64, 12)
    by_bits = [solve(target, gram, IntWeights(bits), method=method).relative_error for bits in range(2, 9)]
    assert by_bits == sorted(by_bits, reverse=True) and by_bits[-1] < 0.02
    grains = (PerTensor(), PerChannel(), PerGroup(16))
    by_grain = [solve(target, gram, IntWeights(3, grain), method=method).relative_error for grain in grains]
    assert by_grain == sorted(by_grain, reverse=True)


def test_grids_without_zero_serve_at_two_bits() -> None:
    """A symmetric integer grid wastes one of four levels on zero's far side."""
    gram, target = problem(96, 16)
    error = {
        kind: solve(target, gram, IntWeights(2, symmetric=kind == "symmetric", zero_point=point)).relative_error
        for kind, point in (("symmetric", "real"), ("half", "half"), ("integer", "integer"), ("real", "real"))
    }
    assert error["half"] < error["symmetric"] and error["real"] < error["integer"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS, ids=["real", "integer", "half", "symmetric"])
def test_weights_on_dead_inputs_survive(method: Method, kind: IntWeights) -> None:
    """Inputs that never fired on the calibration set may fire later: their weights are rounded, not thrown away."""
    gram, target = problem(24, 6)
    dead = torch.tensor([0, 7, 23])
    gram[dead], gram[:, dead] = 0, 0
    solution = solve(target, gram, replace(kind, bits=6), method=method)
    check_sane(solution, target, 6)
    # The range may be clipped at them, as nothing is known of how much they matter.
    assert (solution.values()[dead] - target[dead]).norm() < 0.1 * target[dead].norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grain", GRANULARITIES, ids=str)
def test_no_features_at_all_leave_plain_weights(method: Method, grain: object) -> None:
    _, target = problem(20, 5)
    solution = solve(target, torch.zeros(20, 20), IntWeights(8, grain), method=method)
    check_sane(solution, target, 8)
    assert (solution.values() - target).norm() < 0.02 * target.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS, ids=["real", "integer", "half", "symmetric"])
@pytest.mark.parametrize("grain", [PerChannel(), PerGroup(6)], ids=["channel", "group"])
def test_constant_columns(method: Method, kind: IntWeights, grain: object) -> None:
    gram, target = problem(24, 6)
    for column, value in ((0, 0.0), (2, 0.31), (5, -40.0)):
        target[:, column] = value
    solution = solve(target, gram, replace(kind, bits=4, granularity=grain), method=method)
    check_sane(solution, target, 4)
    for column in (0, 2, 5):
        # The half-integer grid has no zero: half a step of the smallest step there is.
        torch.testing.assert_close(solution.values()[:, column], target[:, column], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_one_input_or_one_channel(method: Method, shape: tuple[int, int]) -> None:
    gram, target = problem(*shape)
    for bits in (2, 8):
        solution = solve(target, gram, IntWeights(bits), method=method)
        check_sane(solution, target, bits)
        if shape[0] == 1:
            torch.testing.assert_close(solution.values(), target, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-12, 1e-6, 1e4, 1e8])
@pytest.mark.parametrize("method", METHODS)
def test_the_unit_of_the_inputs_does_not_matter(method: Method, magnitude: float) -> None:
    gram, target = problem(30, 6)
    wanted = solve(target, gram, IntWeights(4), method=method)
    found = solve(target, gram * magnitude, IntWeights(4), method=method)
    assert found.relative_error == pytest.approx(wanted.relative_error, rel=0.05)


def test_one_level_for_each_input_group_and_the_groups_are_gathered_by_size() -> None:
    _, target = problem(20, 4)
    weights = IntWeights(4, PerGroup(8))
    runs = rows_to_groups(target, weights, gather=False)
    assert runs.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    gathered = rows_to_groups(target, weights, gather=True)
    sizes = target.square().mean(1)
    assert gathered.bincount().tolist() == [8, 8, 4]
    assert sizes[gathered == 0].max() <= sizes[gathered == 1].min()
    assert sizes[gathered == 1].max() <= sizes[gathered == 2].min()


def test_a_given_grid_is_kept() -> None:
    gram, target = problem(24, 6)
    grid = sorted_grid(target, gram.diagonal(), IntWeights(2))
    solution = solve(target, gram, IntWeights(2), grid=grid)
    assert torch.equal(solution.grid.scale, grid.scale) and torch.equal(solution.grid.row_group, grid.row_group)
    check_sane(solution, target, 2)
    assert solution.relative_error < 0.6 * solve(target, gram, IntWeights(2)).relative_error


def test_damping() -> None:
    gram, _ = problem()
    torch.testing.assert_close(damped(gram) - gram, 0.01 * gram.diagonal().mean() * torch.eye(48), rtol=1e-3, atol=1e-5)
    assert torch.equal(damped(torch.zeros(3, 3)), torch.eye(3))
