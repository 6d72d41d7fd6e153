"""A short training without labels: a changed network follows what the original says of the same inputs.

Hinton et al. 2015, "Distilling the knowledge in a neural network", at temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medquant.models.base import CalibrationBatch
from medquant.network_edit import stoppable
from medquant.progress import Progress
from medquant.rewrites.settings import Redesign

Forward = Callable[[nn.Module, CalibrationBatch], torch.Tensor]
"""(network, input) -> logits (batch, classes, *spatial)."""


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[CalibrationBatch],
    forward: Forward,
    settings: Redesign,
    tracker: Progress,
    *,
    exclusive: bool,
) -> tuple[float, ...]:
    """Train all weights of `student` in place, by Adam; returns the loss of each step.

    Statistics of norms stay as they are, and dropout is off, as at inference. `exclusive`: one class holds at each
    place; otherwise each channel is a mask of its own. The same settings and inputs give the same weights. Raises
    `Cancelled` when stopped.
    """
    weights = [parameter for parameter in student.parameters() if parameter.is_floating_point()]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, settings.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, settings.steps))
    generator = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    order: list[int] = []
    try:
        with stoppable(student, tracker.check), stoppable(teacher, tracker.check), torch.enable_grad():
            for step in range(settings.steps):
                tracker.report(step / settings.steps, f"Training the redesigned network, step {step + 1}")
                order = order or torch.randperm(len(batches), generator=generator).tolist()
                batch = batches[order.pop()]
                with torch.no_grad():
                    wanted = forward(teacher, batch).float()
                loss = divergence(forward(student, batch).float(), wanted, exclusive=exclusive)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                falling.step()
                losses.append(loss.item())
    finally:
        student.requires_grad_(False)
        for weight in weights:
            weight.grad = None
    return tuple(losses)


def divergence(found: torch.Tensor, wanted: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Kullback-Leibler divergence of the probabilities of two logits (batch, classes, *spatial) from `wanted`'s.

    Mean over all places, and over the masks where they do not exclude each other, in nats.
    """
    if exclusive:
        log_wanted = wanted.log_softmax(1)
        return (log_wanted.exp() * (log_wanted - found.log_softmax(1))).sum(1).mean()
    probability = wanted.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(found, probability)
    return cross - functional.binary_cross_entropy_with_logits(wanted, probability)


def trainable(batch: CalibrationBatch) -> CalibrationBatch:
    """The same input, copied out of inference mode, in which it may have been made and gradients cannot pass."""
    copies: tuple[Any, ...] = tuple(
        one.detach().clone() if isinstance(one, torch.Tensor) else one for one in batch.inputs
    )
    return CalibrationBatch(copies, batch.focus)
