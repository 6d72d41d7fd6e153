"""The Fréchet distance of Gaussians against closed forms, and against scipy's root of a matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from medquant.bench.generation.frechet import Gaussian, frechet_distance


def _covariance(size: int, seed: int, rank: int | None = None) -> np.ndarray:
    factors = np.random.default_rng(seed).standard_normal((size, rank or 2 * size))
    return factors @ factors.T


def test_in_one_dimension_means_and_deviations_count() -> None:
    one, other = Gaussian(np.array([1.0]), np.array([[4.0]])), Gaussian(np.array([-2.0]), np.array([[0.25]]))
    assert frechet_distance(one, other) == pytest.approx(3**2 + (2 - 0.5) ** 2)


def test_of_independent_features_the_distances_add() -> None:
    means, deviations = np.array([[0.0, 1, 2], [1, 1, -1]]), np.array([[1.0, 2, 3], [2, 2, 0]])
    one, other = (Gaussian(mean, np.diag(deviation**2)) for mean, deviation in zip(means, deviations))
    assert frechet_distance(one, other) == pytest.approx((1 + 0 + 9) + (1 + 0 + 9))


def test_a_set_is_no_way_from_itself_and_moved_by_the_square() -> None:
    covariance, mean = _covariance(6, 0), np.arange(6.0)
    assert frechet_distance(Gaussian(mean, covariance), Gaussian(mean, covariance)) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(Gaussian(mean, covariance), Gaussian(mean + 2, covariance)) == pytest.approx(24)


@pytest.mark.parametrize("seed", range(3))
def test_covariances_that_do_not_commute_agree_with_the_root_of_their_product(seed: int) -> None:
    one, other = _covariance(5, seed), _covariance(5, seed + 100)
    found = frechet_distance(Gaussian(np.zeros(5), one), Gaussian(np.zeros(5), other))
    expected = np.trace(one + other - 2 * np.real(sqrtm(one @ other)))
    assert found == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx(frechet_distance(Gaussian(np.zeros(5), other), Gaussian(np.zeros(5), one)))


def test_fewer_images_than_features_are_no_trouble() -> None:
    flat = Gaussian(np.zeros(8), _covariance(8, 1, rank=2))
    scaled = Gaussian(np.zeros(8), 4 * flat.covariance)
    assert frechet_distance(flat, scaled) == pytest.approx(np.trace(flat.covariance))


def test_samples_come_near_their_gaussians_and_few_of_them_are_farther() -> None:
    rng = np.random.default_rng(0)
    many, others, few = (Gaussian.of(rng.standard_normal((n, 10))) for n in (20_000, 20_000, 30))
    assert frechet_distance(many, others) < 0.02 < 1 < frechet_distance(many, few)
    assert Gaussian.of(np.ones((3, 1))).covariance.shape == (1, 1)


def test_it_is_the_fid_of_monai() -> None:
    from monai.metrics import FIDMetric

    one, other = (np.random.default_rng(seed).normal(seed, 1 + seed, (60, 5)) for seed in (0, 1))
    theirs = float(FIDMetric()(torch.from_numpy(one), torch.from_numpy(other)))
    assert frechet_distance(Gaussian.of(one), Gaussian.of(other)) == pytest.approx(theirs, rel=1e-5)
