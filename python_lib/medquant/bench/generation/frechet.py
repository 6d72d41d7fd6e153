"""How far two sets of features are apart, each taken for a Gaussian.

Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
2017, equation 6; the distance is that of Dowson and Landau, J. Multivariate Analysis 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d)."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Of features (n, d), n at least 2."""
        features = np.asarray(features, dtype=np.float64)
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2), 0 or more, for singular covariances too.

    C1 C2 has the eigenvalues of the symmetric C1^1/2 C2 C1^1/2, so no root of an asymmetric matrix is needed.
    """
    shift = one.mean - other.mean
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    joint = np.linalg.eigvalsh(root @ other.covariance @ root).clip(min=0)
    distance = shift @ shift + np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.sqrt(joint).sum()
    return max(float(distance), 0.0)
