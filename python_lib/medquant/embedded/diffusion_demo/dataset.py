"""Axial slices of phantoms, small enough for a diffusion network that a laptop trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from medquant.embedded.diffusion_demo.configuration import PIXEL_MM, SIDE, WINDOW_HU
from medquant.embedded.phantom import make_phantom
from medquant.progress import Progress

COVERED_MM = 168.0
"""Of the body's length: from the pelvis' upper rim to the base of the lungs."""
FINER = 2
"""Phantoms are drawn with so many pixels for each of a slice, both ways, and averaged: no jagged edges."""

# Seed 0 is the demonstration's own scan, those from 900 to 999 test the other networks.
FIRST_TRAINING_SEED, FIRST_TEST_SEED = 1000, 2000


def drawn_slices(seed: int, count: int) -> np.ndarray:
    """`count` axial slices (count, 1, 64, 64) of one phantom in -1..1 (`WINDOW_HU`), feet to head, evenly spread."""
    rng = np.random.default_rng([seed, 13])
    apart = COVERED_MM / count
    shape, pixel = (count, SIDE * FINER, SIDE * FINER), PIXEL_MM / FINER
    centre = (float(rng.uniform(-apart / 2, apart / 2)), 0.0, 0.0)
    hu = make_phantom(seed, shape, (apart, pixel, pixel), centre=centre, noise=float(rng.uniform(4, 8)))[0]
    low, high = WINDOW_HU
    scaled = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1) * 2 - 1
    return scaled.reshape(count, 1, SIDE, FINER, SIDE, FINER).mean((3, 5))


def phantom_slices(seeds: Sequence[int], count: int, progress: Progress) -> torch.Tensor:
    """`count` slices of each phantom, (seeds x count, 1, 64, 64), in the order of the seeds."""
    return _of_each(seeds, lambda seed: drawn_slices(seed, count), progress)


def single_slices(seeds: Sequence[int], progress: Progress) -> torch.Tensor:
    """One slice of each phantom, (seeds, 1, 64, 64), at any height: as independent as generated images are."""
    return _of_each(seeds, lambda seed: drawn_slices(seed, 2)[seed % 2 :][:1], progress)


def _of_each(seeds: Sequence[int], draw: Callable[[int], np.ndarray], progress: Progress) -> torch.Tensor:
    found = []
    for done, seed in enumerate(seeds):
        progress.report(done / len(seeds), f"Drawing phantom {done + 1} of {len(seeds)}")
        found.append(torch.from_numpy(draw(seed)))
    return torch.cat(found)
