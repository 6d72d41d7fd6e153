"""From noise to images, always the same ones: what differs between two networks is what they make of the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from medquant.embedded.diffusion_demo.configuration import FOLD, SIDE, images_of, scheduler

STEPS = 20
"""Of the sampler, from noise to image."""
TOGETHER = 32
"""Images that are made at a time."""


def noise_of(count: int, seed: int) -> torch.Tensor:
    """Where images begin: latents (count, 4, 32, 32); the first of them are the same for any `count`."""
    shape = (FOLD**2, SIDE // FOLD, SIDE // FOLD)
    draws = (torch.Generator().manual_seed(seed + number) for number in range(count))
    return torch.stack([torch.randn(shape, generator=generator) for generator in draws])


def generated(
    network: nn.Module, noise: torch.Tensor, steps: int = STEPS, check: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Images (n, 1, 64, 64) in -1..1 that the network makes of `noise` (n, 4, 32, 32)."""
    found = []
    for part in noise.split(TOGETHER):
        *_, last = _way(network, part, steps, check)
        found.append(images_of(last[1]))
    return torch.cat(found)


def states(network: nn.Module, noise: torch.Tensor, steps: int = STEPS) -> tuple[torch.Tensor, torch.Tensor]:
    """All that the network is given on the way from `noise` (1, 4, 32, 32): latents (steps, 4, 32, 32) and timesteps
    (steps,)."""
    before, timesteps = [], []
    for given, _, timestep in _way(network, noise, steps, lambda: None):
        before.append(given)
        timesteps.append(timestep)
    return torch.cat(before), torch.tensor(timesteps)


def _way(
    network: nn.Module, latents: torch.Tensor, steps: int, check: Callable[[], None]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Latents before and after each step, and its timestep. Nothing is drawn: the noise decides all."""
    flow = scheduler()
    flow.set_timesteps(steps)
    timesteps = flow.timesteps.tolist()
    with torch.inference_mode():
        for timestep, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
            check()
            velocity = network(latents, torch.full((len(latents),), timestep))
            moved, _ = flow.step(velocity, timestep, latents, following)
            yield latents, moved, timestep
            latents = moved
