"""Trains the demonstration UNETR from nothing: draw phantoms, train on one thread, keep the weights.

python -m medquant.embedded.unetr_demo.training FOLDER
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from medquant.embedded.descent import descend, on_one_thread
from medquant.embedded.unetr_demo.configuration import save_weights, untrained
from medquant.embedded.unetr_demo.dataset import FIRST_TRAINING_SEED, training_cases, varied
from medquant.progress import CancelCheck, Progress, ProgressCallback

WARM_UP = 100
LEARNING_RATE = 2e-3


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
    began = time.process_time()
    with on_one_thread(seed):
        model = untrained()
        seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + cases)
        phantoms = training_cases(model, seeds, tracker.span(0.0, 0.15))
        network = model.network.train().to(memory_format=torch.channels_last_3d)
        criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        rng = np.random.default_rng([seed, 5])

        def loss_of() -> torch.Tensor:
            image, labels = varied(phantoms[int(rng.integers(len(phantoms)))], rng)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(image)
            return criterion(logits.float(), labels)

        for _ in descend(
            network,
            loss_of,
            steps,
            learning_rate=LEARNING_RATE,
            factor=lambda step: min((step + 1) / WARM_UP, 1 - step / steps),
            progress=tracker.span(0.15, 1.0),
        ):
            pass
        minutes = round((time.process_time() - began) / 60, 1)
        save_weights(network, output, {"cases": cases, "steps": steps, "seed": seed, "processor_minutes": minutes})
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
