"""Phantoms on the network's own grid, and what is changed about them from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch.nn import functional

from medquant.embedded.nnunet_demo.dataset import other_phase
from medquant.embedded.phantom import make_phantom
from medquant.embedded.unetr_demo.configuration import WINDOW
from medquant.imaging.volume import Volume
from medquant.models.monai_networks import MonaiModel
from medquant.progress import Progress

PHANTOM_SHAPE, PHANTOM_SPACING = (60, 192, 192), (3.0, 2.0, 2.0)

# Seed 0 is the demonstration's own scan, those from 900 to 999 are for testing.
FIRST_TRAINING_SEED, FIRST_TEST_SEED = 1000, 900


def drawn_phantom(seed: int) -> tuple[Volume, np.ndarray]:
    """A training case and its labels, with field of view, dose and contrast phase drawn from the seed."""
    rng = np.random.default_rng([seed, 11])
    centre = tuple(rng.uniform((-22, -10, -12), (22, 10, 12)))
    image, labels, _, affine = make_phantom(
        seed, PHANTOM_SHAPE, PHANTOM_SPACING, centre=centre, noise=float(rng.uniform(4, 16))
    )
    return Volume(other_phase(image, rng), affine, modality="CT"), labels


def training_cases(model: MonaiModel, seeds: Sequence[int], progress: Progress, processes: int = 1) -> list:
    """Input (1, k, j, i) and labels (k, j, i) of each phantom, on the network's grid."""
    cases = []
    with ProcessPoolExecutor(processes) as pool:
        for done, (volume, labels) in enumerate(pool.map(drawn_phantom, seeds)):
            image, turned = model.preprocessing.apply(volume)
            turned_labels = torch.from_numpy(np.ascontiguousarray(turned.apply(labels)))[None, None].float()
            on_grid = functional.interpolate(turned_labels, size=image.shape[1:], mode="nearest-exact")
            cases.append((image, on_grid[0, 0].to(torch.uint8)))
            progress.report((done + 1) / len(seeds), f"Drawing phantom {done + 1} of {len(seeds)}")
    return cases


def varied(case: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (1, 1, *WINDOW) and labels (1, 1, *WINDOW): shifted, turned a little, scaled, brighter or darker."""
    image, labels = case
    angle, scale = rng.uniform(-0.12, 0.12), rng.uniform(0.92, 1.08, 3)
    shift = rng.uniform(-0.12, 0.12, 3)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) * scale  # x, y, z: i, j, k
    grown = np.array(WINDOW[::-1]) / np.array(image.shape[:0:-1])  # a window longer than the scan sees beyond it
    theta = torch.tensor(np.column_stack([turn * grown, shift]), dtype=torch.float32)[None]
    grid = functional.affine_grid(theta, [1, 1, *WINDOW], align_corners=False)
    moved = functional.grid_sample(image[None], grid, mode="bilinear", align_corners=False)
    moved = moved * float(rng.uniform(0.92, 1.08)) + float(rng.uniform(-0.03, 0.03))
    truth = functional.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)
    return moved.clamp(0, 1), truth.long()
