"""What becomes of a network's output when something in the network is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Change:
    """Between the logits of the FP32 network and those of a changed one, on the same inputs."""

    error: float
    """||f_q(x) - f(x)|| / ||f(x)||; 0: no effect."""
    divergence: float
    """Kullback-Leibler divergence of the classes' probabilities from FP32's, mean over all places, in nats."""
    dsc: float
    """Mean Dice of the masks against FP32's, over the structures that either has."""
    dsc_vs_reference: float | None = None
    """Mean Dice of the masks against reference labels, where there are any."""

    @classmethod
    def mean(cls, changes: Sequence[Change]) -> Change:
        """Over several inputs; the reference's over those that have one."""
        columns = {field.name: [getattr(one, field.name) for one in changes] for field in fields(cls)}
        known = {name: [value for value in values if value is not None] for name, values in columns.items()}
        return cls(**{name: sum(values) / len(values) if values else None for name, values in known.items()})


def change_of(
    found: torch.Tensor, expected: torch.Tensor, *, exclusive: bool, reference: torch.Tensor | None = None
) -> Change:
    """Compare logits (batch, classes, *spatial) with the FP32 network's.

    `exclusive`: one class holds at each place, the first of them background; otherwise each channel is a mask of its
    own. `reference`: labels (batch, *spatial), or masks (batch, classes, *spatial) where classes are not exclusive. An
    output that is not finite has an infinite error and divergence.
    """
    found, expected = found.float(), expected.float()
    masks = _labels(found, exclusive)
    against = None if reference is None else mean_dice(masks, reference)
    dsc = mean_dice(masks, _labels(expected, exclusive))
    if not bool(torch.isfinite(found).all()):
        return Change(float("inf"), float("inf"), dsc, against)
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    return Change(error, _divergence(found, expected, exclusive), dsc, against)


def mean_dice(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean Dice over the structures of either: labels (batch, *spatial) or masks (batch, structures, *spatial), bool.

    1 where there is none in either.
    """
    if found.dtype == torch.bool:
        pairs = list(zip(found.unbind(1), expected.bool().unbind(1), strict=True))
    else:
        labels = sorted({*found.unique().tolist(), *expected.unique().tolist()} - {0})
        pairs = [(found == label, expected == label) for label in labels]
    sizes = [(int((a & b).sum()), int(a.sum() + b.sum())) for a, b in pairs]
    scores = [2 * common / total for common, total in sizes if total]
    return sum(scores) / len(scores) if scores else 1.0


def _labels(logits: torch.Tensor, exclusive: bool) -> torch.Tensor:
    return logits.argmax(1) if exclusive else logits > 0


def _divergence(found: torch.Tensor, expected: torch.Tensor, exclusive: bool) -> float:
    if exclusive:
        log_q, log_p = functional.log_softmax(found, 1), functional.log_softmax(expected, 1)
        places = log_p.numel() / log_p.shape[1]
        return max(0.0, float((log_p.exp() * (log_p - log_q)).sum()) / places)
    p = expected.sigmoid()
    inside = p * (functional.logsigmoid(expected) - functional.logsigmoid(found))
    outside = (1 - p) * (functional.logsigmoid(-expected) - functional.logsigmoid(-found))
    return max(0.0, float((inside + outside).sum()) / p.numel())
