"""A procedural CT of the upper abdomen, with its labels: the scan that is always there.

Continuous shapes (smooth unions of implicit surfaces, tubes along splines, smooth random warps) are painted with
portal-venous HU and texture, then blurred and made noisy as a scanner would. Nothing is read from disk and no real
patient is in it; one seed is one anatomy.
"""

from __future__ import annotations

import numpy as np

from medquant.embedded.phantom import scanner
from medquant.embedded.phantom.anatomy import grow
from medquant.embedded.phantom.labels import LABEL_NAMES
from medquant.progress import CancelCheck, Progress, ProgressCallback

__all__ = ["LABEL_NAMES", "make_phantom"]


def make_phantom(
    seed: int = 0,
    shape: tuple[int, int, int] = (60, 512, 512),
    spacing: tuple[float, float, float] = (3.0, 0.75, 0.75),
    *,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    noise: float = 11.0,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[int, str], np.ndarray]:
    """An abdominal CT in the portal-venous phase.

    Parameters
    ----------
    seed: one seed is one patient; on the same grid, the same voxels.
    shape, spacing: voxels and mm, both (k, j, i): superior, posterior, left.
    centre: patient position (z, y, x) in mm of the grid's middle; (0, 0, 0) is in front of the first lumbar vertebra.
    noise: standard deviation in HU in the middle of the body; 0 for none.
    progress, cancelled: told what is being done and how far it is; asked between structures and between slices.

    Returns
    -------
    HU (int16) and labels (uint8), both (k, j, i); label names; and the 4x4 matrix from voxel indices (i, j, k, 1)
    to LPS world coordinates in mm.
    """
    if len(shape) != 3 or min(shape) < 2 or len(spacing) != 3 or not min(spacing) > 0:
        raise ValueError("shape and spacing need three numbers each, at least 2 voxels and more than 0 mm.")
    whole = Progress(progress, cancelled)
    rng = np.random.default_rng([seed, 20240])
    origin = [c - (n - 1) * s / 2 for c, n, s in zip(centre, shape, spacing)]
    world = [o + s * np.arange(n) for o, n, s in zip(origin, shape, spacing)]

    body, scale = grow(rng, world, whole.span(0.0, 0.35))
    fine = tuple(axis / s for axis, s in zip(world, scale))
    image, labels = scanner.paint(body, fine, max(spacing[1:]), rng, whole.span(0.35, 0.45))
    scanner.add_table(image, world[1], world[2])
    image = scanner.blur(image, spacing, whole.span(0.45, 0.5))
    if noise:
        scanner.add_noise(image, spacing, noise, rng, whole.span(0.5, 1.0))
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    affine[:3, 3] = origin[::-1]
    whole.report(1.0, "Phantom ready")
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), labels, dict(LABEL_NAMES), affine
