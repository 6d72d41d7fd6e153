"""Axial slices of phantoms, small enough for a diffusion network that a laptop trains."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch

from medquant.embedded.diffusion_demo.configuration import PIXEL_MM, SIDE, WINDOW_HU
from medquant.embedded.phantom import make_phantom
from medquant.progress import Progress

COVERED_MM = 168.0
"""Of the body's length: from the pelvis' upper rim to the base of the lungs."""
FINER = 2
"""Phantoms are drawn with so many pixels for each of a slice, both ways, and averaged: no jagged edges."""

# Seed 0 is the demonstration's own scan, those from 900 to 999 are for testing.
FIRST_TRAINING_SEED, FIRST_TEST_SEED, TEST_SEEDS = 1000, 900, 100


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


def phantom_slices(seeds: Sequence[int], count: int, progress: Progress, processes: int = 1) -> torch.Tensor:
    """`count` slices of each phantom, (seeds x count, 1, 64, 64), in the order of the seeds."""
    found = []
    with ProcessPoolExecutor(processes) as pool:
        for done, slices in enumerate(pool.map(partial(drawn_slices, count=count), seeds)):
            found.append(torch.from_numpy(slices))
            progress.report((done + 1) / len(seeds), f"Drawing phantom {done + 1} of {len(seeds)}")
    return torch.cat(found)
