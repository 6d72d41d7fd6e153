"""What calibrates the diffusion network: its own ways from noise to image."""

from __future__ import annotations

import torch
from torch import nn

from medquant.bench.generation.sampling import noise_of, states
from medquant.models.base import CalibrationBatch
from medquant.progress import Progress

CALIBRATION_SEED = 77_000
"""Images that are measured start from other noise."""


def own_ways(network: nn.Module, count: int, steps: int, progress: Progress) -> list[CalibrationBatch]:
    """`count` ways of FP32 from noise to image, each with all that the network is given on it.

    So every timestep of the sampler counts alike: what flows through a diffusion network differs from one to the
    next, and a grid that fits the last steps cuts the first (Shang et al., "Post-training quantization on diffusion
    models", CVPR 2023). Of the timesteps themselves the network sees those of a sampler of `steps` steps only.
    Everywhere in an image matters alike.
    """
    found = []
    for number, noise in enumerate(noise_of(count, CALIBRATION_SEED).split(1)):
        progress.report(number / count, f"Way {number + 1} of {count} from noise to image")
        latents, timesteps = states(network, noise, steps)
        focus = torch.ones(len(latents), *latents.shape[2:])
        found.append(CalibrationBatch((latents, timesteps), focus))
    return found
