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
    volume_change: float = 0.0
    """The largest relative change of a structure's volume, of those that FP32 sees."""
    dsc_vs_reference: float | None = None
    """Mean Dice of the masks against reference labels, where there are any."""
    worst_dsc: float = 1.0
    """The lowest Dice of a structure against FP32's, of those that either has."""

    @classmethod
    def mean(cls, changes: Sequence[Change]) -> Change:
        """Over several inputs; the reference's over those that have one."""
        columns = {field.name: [getattr(one, field.name) for one in changes] for field in fields(cls)}
        known = {name: [value for value in values if value is not None] for name, values in columns.items()}
        return cls(**{name: sum(values) / len(values) if values else None for name, values in known.items()})


class Expected:
    """The output of the FP32 network on one input, to compare others with."""

    def __init__(self, logits: torch.Tensor, *, exclusive: bool, reference: torch.Tensor | None = None) -> None:
        """`logits` (batch, classes, *spatial).

        `exclusive`: one class holds at each place, the first of them background; otherwise each channel is a mask of
        its own. `reference`: labels (batch, *spatial), or masks (batch, classes, *spatial) where not exclusive (labels
        will do for one class); those on a finer grid over the same extent are brought to that of the logits (nearest).
        """
        self._logits, self._exclusive = logits.float(), exclusive
        self._reference = None if reference is None else _on_grid(reference.to(logits.device), logits, exclusive)
        self._norm = float(self._logits.norm().clamp_min(1e-12))
        self._masks = _masks(self._logits, exclusive)
        self.dsc_vs_reference = self._against_reference(self._masks)
        """Mean Dice of the FP32 masks against the reference; None where there is none."""
        self._probabilities = self._logits.softmax(1) if exclusive else self._logits.sigmoid()
        self._self_divergence = self._cross_entropy(self._logits)

    def change(self, found: torch.Tensor) -> Change:
        """From here to `found`, of the same shape; infinite error and divergence where it is not finite."""
        found = found.float()
        masks = _masks(found, self._exclusive)
        sizes = overlaps(masks, self._masks, self._classes)
        against = self._against_reference(masks)
        volume = max((abs(after - before) / before for _, after, before in sizes if before), default=0.0)
        error = float((found - self._logits).norm()) / self._norm
        if error != error or error == float("inf"):
            error = divergence = float("inf")
        else:
            divergence = max(0.0, self._cross_entropy(found) - self._self_divergence)
        return Change(error, divergence, mean_dice(sizes), volume, against, min(dices(sizes), default=1.0))

    @property
    def _classes(self) -> int:
        """As `overlaps` takes it."""
        return self._logits.shape[1] if self._exclusive else 0

    def _against_reference(self, masks: torch.Tensor) -> float | None:
        return None if self._reference is None else mean_dice(overlaps(masks, self._reference, self._classes))

    def _cross_entropy(self, logits: torch.Tensor) -> float:
        """Of the probabilities with those of `logits`, mean over all places (and masks, where not exclusive)."""
        if self._exclusive:
            normalizer = logits.logsumexp(1).double().sum()
            matched = torch.linalg.vecdot(self._probabilities, logits, dim=1).double().sum()
            return float(normalizer - matched) / (logits.numel() // logits.shape[1])
        each = functional.softplus(logits) - self._probabilities * logits
        return float(each.double().mean())


def _on_grid(reference: torch.Tensor, logits: torch.Tensor, exclusive: bool) -> torch.Tensor:
    if not exclusive and reference.ndim < logits.ndim:
        reference = reference[:, None] > 0
    if reference.shape[1 if exclusive else 2 :] == logits.shape[2:]:
        return reference
    channels = reference[:, None] if exclusive else reference
    resized = functional.interpolate(channels.float(), size=logits.shape[2:], mode="nearest-exact")
    return resized[:, 0].long() if exclusive else resized > 0.5


def overlaps(found: torch.Tensor, expected: torch.Tensor, classes: int) -> list[tuple[int, int, int]]:
    """Of each structure the places in both, in `found`, and in `expected`.

    Labels (batch, *spatial) below `classes`, of which 0 is none; or masks (batch, structures, *spatial), `classes` 0.
    """
    if not classes:
        pairs = zip(found.bool().unbind(1), expected.bool().unbind(1), strict=True)
        return [(int((a & b).sum()), int(a.sum()), int(b.sum())) for a, b in pairs]
    classes = max(classes, 1 + int(expected.max()))
    pairs = torch.bincount((found.long() * classes + expected.long()).flatten(), minlength=classes**2)
    table = pairs.reshape(classes, classes)
    both, after, before = table.diagonal().tolist(), table.sum(1).tolist(), table.sum(0).tolist()
    return list(zip(both, after, before, strict=True))[1:]


def mean_dice(sizes: Sequence[tuple[int, int, int]]) -> float:
    """Mean Dice over the structures that either has, from `overlaps`; 1 where neither has any."""
    scores = dices(sizes)
    return sum(scores) / len(scores) if scores else 1.0


def dices(sizes: Sequence[tuple[int, int, int]]) -> list[float]:
    """The Dice of each structure that either has, from `overlaps`."""
    return [2 * both / (after + before) for both, after, before in sizes if after + before]


def _masks(logits: torch.Tensor, exclusive: bool) -> torch.Tensor:
    return logits.argmax(1) if exclusive else logits > 0
