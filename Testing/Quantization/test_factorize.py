"""Blocked factors against LAPACK's, damaged matrices, and stopping on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medquant import factorize
from medquant.errors import Cancelled
from medquant.factorize import cholesky, inverse_factor


def gram_of(size: int, rows: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.T @ x / rows


@given(st.integers(1, 70), st.sampled_from([1, 7, 16, 64]), st.integers(0, 99))
def test_blocks_give_the_factors_of_the_whole(size: int, block: int, seed: int) -> None:
    gram = gram_of(size, 2 * size + 3, seed)
    before = gram.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factorize, "BLOCK", block)
        lower, upper = cholesky(gram, 0.0), inverse_factor(gram)
    torch.testing.assert_close(lower, torch.linalg.cholesky(gram), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(upper, torch.linalg.cholesky(torch.linalg.inv(gram), upper=True), rtol=1e-5, atol=1e-7)
    assert torch.equal(gram, before)


@pytest.mark.parametrize("size", [5, 40])
def test_what_is_not_positive_definite_is_damped_until_it_is(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factorize, "BLOCK", 16)
    singular = gram_of(size, 2)
    lower = cholesky(singular, 0.0)
    excess = lower @ lower.T - singular
    assert torch.allclose(excess, torch.eye(size, dtype=excess.dtype) * excess[0, 0], atol=1e-9) and excess[0, 0] > 0
    assert torch.equal(cholesky(torch.zeros(size, size), 0.0).triu(1), torch.zeros(size, size))


def test_a_large_factorization_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factorize, "BLOCK", 16)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Cancelled

    for work in (lambda: cholesky(gram_of(100, 300), 0.0, check), lambda: inverse_factor(gram_of(100, 300), check)):
        calls = 0
        with pytest.raises(Cancelled):
            work()
        assert calls == 4
