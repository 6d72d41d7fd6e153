"""What the trainings of the demonstration's networks share: one thread, AdamW, the loss as it falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from medquant.progress import Progress

LOG_EVERY = 50


@contextmanager
def on_one_thread(seed: int) -> Iterator[None]:
    """PyTorch on one thread and with this seed: what is trained is then the same on one machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def descend(
    network: nn.Module,
    loss_of: Callable[[], torch.Tensor],
    steps: int,
    *,
    learning_rate: float,
    factor: Callable[[int], float],
    progress: Progress,
) -> Iterator[int]:
    """Take `steps` steps of AdamW down `loss_of`, and give the number of each, from 1, once it is taken.

    `factor` of a step, from 0, scales the learning rate. Raises `Cancelled` where it is stopped.
    """
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    recent = 0.0
    for step in range(1, steps + 1):
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent += float(loss.detach())
        if step % LOG_EVERY == 0:
            progress.report((step - 1) / steps, f"Step {step}: loss {recent / LOG_EVERY:.3f}")
            recent = 0.0
        yield step
