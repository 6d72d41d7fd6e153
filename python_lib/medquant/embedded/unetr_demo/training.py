"""Trains the demonstration UNETR from nothing: draw phantoms, train on one thread, keep the weights.

python -m medquant.embedded.unetr_demo.training FOLDER
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from medquant.embedded.unetr_demo.configuration import save_weights, untrained
from medquant.embedded.unetr_demo.dataset import FIRST_TRAINING_SEED, training_cases, varied
from medquant.progress import CancelCheck, Progress, ProgressCallback

WARM_UP = 100
LEARNING_RATE = 2e-3
LOG_EVERY = 50


def train(
    output: Path,
    *,
    cases: int = 48,
    steps: int = 2400,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Path:
    """Train on `cases` phantoms for `steps` steps of one window each, and write the weights folder `output`.

    On one thread and one machine the result is a function of the arguments. AdamW with a linear decay, Dice and
    cross-entropy, in bfloat16. Raises `Cancelled` where it is stopped; nothing is kept then.
    """
    from monai.losses import DiceCELoss

    tracker = Progress(progress, cancelled)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    began = time.process_time()
    try:
        model = untrained()
        seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + cases)
        phantoms = training_cases(model, seeds, tracker.span(0.0, 0.15))
        network = model.network.train().to(memory_format=torch.channels_last_3d)
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM_UP, 1 - step / steps)
        )
        loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        rng, recent = np.random.default_rng([seed, 5]), 0.0
        for step in range(steps):
            image, labels = varied(phantoms[int(rng.integers(len(phantoms)))], rng)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(image)
            loss = loss_of(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            recent += float(loss.detach())
            if step % LOG_EVERY == LOG_EVERY - 1:
                tracker.report(0.15 + 0.85 * step / steps, f"Step {step + 1}: loss {recent / LOG_EVERY:.3f}")
                recent = 0.0
        minutes = round((time.process_time() - began) / 60, 1)
        save_weights(network, output, {"cases": cases, "steps": steps, "seed": seed, "processor_minutes": minutes})
    finally:
        torch.set_num_threads(threads)
    return output


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m medquant.embedded.unetr_demo.training", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the weights")
    parser.add_argument("--cases", type=int, default=48, help="number of phantoms, seeds from 1000")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    train(
        options.output,
        cases=options.cases,
        steps=options.steps,
        seed=options.seed,
        progress=lambda event: print(f"{event.fraction:4.0%} {event.message}", flush=True),
    )


if __name__ == "__main__":
    main()
