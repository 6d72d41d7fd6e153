"""Grows one patient: the warped space, then every structure in an order in which later ones respect earlier ones."""

from __future__ import annotations

import numpy as np

from medquant.embedded.phantom import bowel, organs, skeleton, trunk, vessels
from medquant.embedded.phantom.body import Body
from medquant.embedded.phantom.fields import Region, SmoothField
from medquant.progress import Progress

COARSE = 1.5  # mm; distances are smooth enough to be evaluated this far apart in the plane
SLACK = 15.0  # mm; no point is warped farther than this
STRUCTURES = (
    trunk.build_trunk,
    trunk.build_muscles,
    skeleton.build_skeleton,
    vessels.build_great_vessels,
    vessels.build_branches,
    organs.build_kidneys,
    bowel.build_stomach,
    organs.build_gallbladder,
    organs.build_liver,
    organs.build_spleen,
    organs.build_pancreas,
    bowel.build_duodenum,
    bowel.build_colon,
    bowel.build_small_bowel,
)


def grow(rng: np.random.Generator, world_axes: list[np.ndarray], progress: Progress) -> tuple[Body, np.ndarray]:
    """The patient on the given axes (z, y, x, in mm), and the patient's scale (z, y, x) against the standard one."""
    scale = np.clip(rng.normal([1.0, 1.0, 1.0], [0.04, 0.05, 0.04]), 0.9, 1.09)
    fatness = float(np.clip(rng.lognormal(0.12, 0.33), 0.5, 1.9))
    body = Body(warped_space(rng, world_axes, scale), rng, coarse_axes(world_axes, scale), fatness)

    for done, build in enumerate(STRUCTURES):
        progress.report(done / len(STRUCTURES), "Growing the anatomy")
        build(body)
    return body, scale


def coarse_axes(world_axes: list[np.ndarray], scale: np.ndarray) -> tuple[np.ndarray, ...]:
    """Axes (z, y, x) of the distance fields: every slice, and about `COARSE` mm in the plane; standard patient's mm."""
    z, *plane = world_axes
    plane = [np.linspace(a[0], a[-1], max(int(np.ceil((a[-1] - a[0]) / COARSE)) + 1, 2)) for a in plane]
    return tuple((axis / s).astype(np.float32) for axis, s in zip((z, *plane), scale))


def warped_space(rng: np.random.Generator, world_axes: list[np.ndarray], scale: np.ndarray) -> Region:
    """The standard patient's coordinates, displaced by two scales of smooth random fields."""
    axes = coarse_axes(world_axes, scale)
    straight = np.meshgrid(*axes, indexing="ij")
    warped = []
    for coordinate in straight:
        shift = 4.0 * SmoothField(rng, 75).on(*axes) + 1.2 * SmoothField(rng, 28).on(*axes)
        warped.append((coordinate + np.clip(shift, -SLACK, SLACK)).astype(np.float32))
    z, y, x = warped
    return Region(x, y, z, axes, SLACK, tuple(slice(0, len(axis)) for axis in axes))
