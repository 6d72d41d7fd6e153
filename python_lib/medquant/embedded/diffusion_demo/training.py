"""Trains the demonstration's diffusion network from nothing: draw slices of phantoms, train on one thread.

python -m medquant.embedded.diffusion_demo.training FOLDER
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medquant.embedded.descent import descend, on_one_thread
from medquant.embedded.diffusion_demo.configuration import latents_of, save_weights, scheduler, untrained
from medquant.embedded.diffusion_demo.dataset import FIRST_TRAINING_SEED, phantom_slices
from medquant.progress import CancelCheck, Progress, ProgressCallback

SLICES = 12
"""Of each phantom."""
BATCH = 16
WARM_UP = 100
LEARNING_RATE = 1e-3
AVERAGED = 0.999
"""How much of the averaged weights stays in a step: what is kept of training is the exponential moving average."""
SAVE_EVERY = 500


def train(
    output: Path,
    *,
    phantoms: int = 200,
    steps: int = 7000,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Path:
    """Train on slices of `phantoms` phantoms for `steps` steps of 16 slices, and write the weights folder `output`.

    On one thread and one machine the result is a function of the arguments. AdamW, the squared error of the velocity at
    evenly drawn timesteps, in bfloat16. The folder is written every 500 steps: a run that was stopped leaves what as
    many steps give, as nothing depends on how many were to come. Raises `Cancelled` where it is stopped.
    """
    tracker = Progress(progress, cancelled)
    began = time.process_time()
    with on_one_thread(seed):
        seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + phantoms)
        latents = latents_of(phantom_slices(seeds, SLICES, tracker.span(0.0, 0.1)))
        network, flow = untrained().train().to(memory_format=torch.channels_last), scheduler()
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))

        def loss_of() -> torch.Tensor:
            clean = latents[torch.randint(len(latents), (BATCH,))]
            noise, when = torch.randn_like(clean), flow.sample_timesteps(clean)
            noisy = flow.add_noise(clean, noise, when).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                velocity = network(noisy, when)
            return functional.mse_loss(velocity.float(), clean - noise)

        for step in descend(
            network,
            loss_of,
            steps,
            learning_rate=LEARNING_RATE,
            factor=lambda step: min((step + 1) / WARM_UP, 1.0),
            progress=tracker.span(0.1, 1.0),
        ):
            averaged.update_parameters(network)
            if step % SAVE_EVERY == 0 or step == steps:
                told = {"phantoms": phantoms, "slices": len(latents), "steps": step, "seed": seed}
                told["processor_minutes"] = round((time.process_time() - began) / 60, 1)
                save_weights(averaged.module, output, told)
    return output


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m medquant.embedded.diffusion_demo.training", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the weights")
    parser.add_argument("--phantoms", type=int, default=200, help="seeds from 1000")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    train(
        options.output,
        phantoms=options.phantoms,
        steps=options.steps,
        seed=options.seed,
        progress=lambda event: print(f"{event.fraction:4.0%} {event.message}", flush=True),
    )


if __name__ == "__main__":
    main()
