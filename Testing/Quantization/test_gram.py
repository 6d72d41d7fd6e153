"""Moments, corrected targets and positions, against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant.gram import (
    RIDGES,
    Moments,
    choose_ridge,
    corrected_target,
    dilate,
    draw_positions,
    focus_on_grid,
    resize_focus,
    shrunk,
)


def rows(count: int, size: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mixing / size**0.5 + mean


def moments_of(x: torch.Tensor, full: torch.Tensor | None = None, pieces: int = 1) -> Moments:
    moments = Moments(x.shape[1], paired=full is not None)
    for part, other in zip(x.chunk(pieces), (x if full is None else full).chunk(pieces)):
        moments.add(part, other if full is not None else None)
    return moments


def expected(x: torch.Tensor, full: torch.Tensor, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    a, b = x.double().numpy(), full.double().numpy()
    if centred:
        a, b = a - a.mean(0), b - b.mean(0)
    return a.T @ a / len(a), a.T @ b / len(a)


def agree(found: torch.Tensor, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert np.abs(found.numpy() - wanted).max() <= tolerance * np.abs(wanted).max()


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 3.0, -1.0]))
def test_moments(count: int, size: int, pieces: int, centred: bool, mean: float) -> None:
    x, full = rows(count + 1, size, 0, mean), rows(count + 1, size, 1, -mean)
    moments = moments_of(x, full, pieces)
    gram, cross = moments.gram(centred=centred)
    wanted, wanted_cross = expected(x, full, centred)
    scale = max(np.abs(wanted).max(), np.abs(wanted_cross).max())
    assert np.abs(gram.numpy() - wanted).max() <= 1e-5 * scale
    assert np.abs(cross.numpy() - wanted_cross).max() <= 1e-5 * scale
    for found, values in zip(moments.means(), (x, full)):
        torch.testing.assert_close(found, values.double().mean(0).float(), rtol=1e-5, atol=1e-5)
    assert moments.count == count + 1


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_a_large_common_mean_costs_no_precision(mean: float) -> None:
    """Raw HU and badly scaled inputs: the variation is what counts."""
    x = rows(400, 6, 0) + mean * torch.arange(1, 7)
    gram, _ = moments_of(x, pieces=5).gram(centred=True)
    agree(gram, expected(x, x, True)[0], 1e-3)


@given(st.integers(0, 30), st.integers(0, 30), st.booleans(), st.booleans())
def test_halves_add_up(first: int, second: int, paired: bool, centred: bool) -> None:
    x, full = rows(first + second + 2, 5, 0, 2.0), rows(first + second + 2, 5, 1, -4.0)
    parts = [(x[:first], full[:first]), (x[first:], full[first:])]
    a, b = (moments_of(p, q if paired else None) for p, q in parts)
    states = [m.second.clone() for m in (a, b)]
    total = a + b
    whole = moments_of(x, full if paired else None)
    assert total.count == whole.count
    for found, wanted in zip(
        (*total.gram(centred=centred), *total.means()), (*whole.gram(centred=centred), *whole.means())
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(m.second, state) for m, state in zip((a, b), states))


def test_the_rows_given_are_not_touched() -> None:
    x, full = rows(9, 4, 0), rows(9, 4, 1)
    before = x.clone(), full.clone()
    moments_of(x, full)
    assert torch.equal(x, before[0]) and torch.equal(full, before[1])


@given(st.sampled_from([0.001, 0.02, 0.5, 10.0]), st.integers(0, 50))
def test_corrected_target_is_ridge_regression(ridge: float, seed: int) -> None:
    """min ||X_q V - X_f W||^2 + r mean(diag H) ||V - W||^2 as one augmented least-squares problem."""
    full = rows(80, 6, seed).double()
    x = full + 0.3 * rows(80, 6, seed + 1).double()
    weight = rows(6, 3, seed + 2).double()
    gram, cross = x.T @ x / 80, x.T @ full / 80
    found = corrected_target(weight, gram, cross, ridge)
    strength = np.sqrt(80 * ridge * float(gram.diagonal().mean()))
    left = np.vstack([x.numpy(), strength * np.eye(6)])
    right = np.vstack([(full @ weight).numpy(), strength * weight.numpy()])
    np.testing.assert_allclose(found.numpy(), np.linalg.lstsq(left, right, rcond=None)[0], rtol=1e-8, atol=1e-10)


def test_rows_that_are_left_out_are_made_up_for_by_the_others() -> None:
    full = rows(90, 6, 0).double()
    x, weight, kept = full + 0.2 * rows(90, 6, 1).double(), rows(6, 3, 2).double(), torch.tensor([0, 2, 5])
    found = corrected_target(weight, x.T @ x / 90, x.T @ full / 90, 1e-9, kept)
    left, right = x[:, kept].numpy(), (full @ weight).numpy()
    np.testing.assert_allclose(found.numpy(), np.linalg.lstsq(left, right, rcond=None)[0], rtol=1e-5)


def test_no_correction_where_none_is_asked_or_needed() -> None:
    weight, gram = rows(4, 3, 0), torch.eye(4)
    assert torch.equal(corrected_target(weight, gram, gram, 0.1), weight)
    assert torch.equal(corrected_target(weight, gram, 2 * gram, None), weight)
    torch.testing.assert_close(corrected_target(weight, gram, gram.clone(), 0.1), weight)


def pair(noise: float, count: int = 400, size: int = 8) -> tuple[Moments, Moments, torch.Tensor]:
    full = rows(2 * count, size, 0)
    seen = full * 0.7 + noise * rows(2 * count, size, 3)
    halves = [moments_of(seen[s], full[s]) for s in (slice(count), slice(count, None))]
    return halves[0], halves[1], rows(size, 5, 4)


def test_ridges_are_chosen_on_unseen_inputs() -> None:
    """Inputs shrunk to seven tenths: a weak ridge undoes that. Few positions and much noise: a strong one, or none."""
    first, second, weight = pair(0.01)
    assert choose_ridge(weight, (first, second), centred=True) in RIDGES[:2]
    few = pair(0.0, count=9, size=8)
    loose = choose_ridge(few[2], few[:2], centred=True)
    torch.manual_seed(0)
    full = torch.randn(24, 8)
    noisy = torch.randn(24, 8)
    halves = moments_of(noisy[:12], full[:12]), moments_of(noisy[12:], full[12:])
    strong = choose_ridge(rows(8, 5, 4), halves, centred=True)
    assert loose is not None and (strong is None or strong > loose)


def test_ridge_with_one_half_empty_or_without_variation() -> None:
    first, _, weight = pair(0.1)
    assert choose_ridge(weight, (first, Moments(8, paired=True)), centred=True) in (*RIDGES, None)
    constant = moments_of(torch.ones(20, 8), torch.full((20, 8), 1.5))
    ridge = choose_ridge(weight, (constant, constant), centred=True)
    gram, cross = constant.gram(centred=True)
    assert torch.isfinite(corrected_target(weight, gram, cross, ridge)).all()


@given(
    st.integers(1, 300), st.integers(0, 350), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.integers(0, 99)
)
def test_positions(total: int, count: int, share: float, inside: float, padding: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(total, generator=generator)
    focus = (draw < inside).float()
    focus[torch.rand(total, generator=generator) < padding] = -1.0
    found = draw_positions(focus, total, count, share, torch.Generator().manual_seed(seed))
    again = draw_positions(focus, total, count, share, torch.Generator().manual_seed(seed))
    assert torch.equal(found, again)
    allowed = int((focus >= 0).sum())
    assert len(found) == len(found.unique()) == min(count, allowed)
    assert torch.equal(found, found.sort().values)
    assert (focus[found] >= 0).all(), "padding was drawn"
    foreground, background = int((focus > 0.5).sum()), int((focus == 0).sum())
    wanted = min(round(count * share), foreground)
    drawn = int((focus[found] > 0.5).sum())
    # The share, unless there is too little background to fill the rest.
    assert drawn == min(max(wanted, count - background), foreground)


def test_positions_without_focus_are_even() -> None:
    found = draw_positions(None, 1000, 200, 0.5, torch.Generator().manual_seed(0))
    assert len(found.unique()) == 200 and 400 < found.float().mean() < 600


def test_focus_on_other_grids() -> None:
    focus = torch.zeros(1, 8, 8)
    focus[0, 5, 2] = 1
    small = resize_focus(focus, (4, 4))
    assert small.sum() == 1 and small[0, 2, 1] == 1
    assert resize_focus(focus, (8, 8)) is focus
    assert torch.equal(resize_focus(focus, (16, 16)).sum(), torch.tensor(4.0))
    conv, linear = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)
    assert torch.equal(focus_on_grid(conv, (1, 4, 4), focus), small.flatten())
    # Tokens of 2 x 2 voxels, with channels last and as a sequence.
    assert torch.equal(focus_on_grid(linear, (1, 4, 4), focus), small.flatten())
    assert torch.equal(focus_on_grid(linear, (1, 16), focus), small.flatten())
    assert focus_on_grid(linear, (1, 7), focus) is None
    assert focus_on_grid(linear, (2, 16), focus) is None
    assert focus_on_grid(conv, (1, 4, 4), None) is None


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dilation(dims: int) -> None:
    mask = torch.zeros(1, *[9] * dims, dtype=torch.bool)
    mask[(0, *[4] * dims)] = True
    grown = dilate(mask, 2)
    assert grown.dtype == torch.bool and int(grown.sum()) == 5**dims and grown[(0, *[2] * dims)]


def halves_of(count: int, size: int, latent: int) -> tuple[Moments, Moments]:
    """Two halves of inputs whose correlations are real (few latent causes) or chance alone (latent 0)."""
    generator = torch.Generator().manual_seed(count)
    mixing = torch.randn(max(latent, 1), size, generator=generator)
    x = torch.randn(2 * count, size, generator=generator)
    if latent:
        x = 0.3 * x + torch.randn(2 * count, latent, generator=generator) @ mixing
    return moments_of(x[:count]), moments_of(x[count:])


def test_correlations_are_trusted_as_far_as_halves_agree() -> None:
    for centred in (True, False):
        real, few, chance = (halves_of(*case) for case in ((2000, 20, 4), (12, 40, 4), (12, 40, 0)))
        share = []
        for halves in (real, few, chance):
            gram, _ = (halves[0] + halves[1]).gram(centred=centred)
            found = shrunk(gram, halves, centred=centred)
            torch.testing.assert_close(found.diagonal(), gram.diagonal())
            assert torch.linalg.eigvalsh(found.double()).min() >= -1e-4 * float(gram.diagonal().max())
            off = ~torch.eye(len(gram), dtype=torch.bool)
            share.append(float(found[off].norm() / gram[off].norm()))
        assert share[0] > 0.98 and share[0] > share[1] > share[2] and share[2] < 0.3


def test_nothing_is_shrunk_without_two_halves() -> None:
    first, _ = halves_of(20, 5, 2)
    gram, _ = first.gram(centred=True)
    assert torch.equal(shrunk(gram, (first, Moments(5, paired=False)), centred=True), gram)
    constant = moments_of(torch.ones(20, 5))
    assert torch.isfinite(shrunk(torch.zeros(5, 5), (constant, constant), centred=True)).all()
