"""nnU-Net's sliding window, its logits given away slab by slab as soon as no further patch reaches them.

The arithmetic is nnunetv2's own: float16 sums, in its order of patches and mirror images, weighted by its Gaussian.
Patches go along the first axis last, so only the planes that coming patches reach are held, not the whole scan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from medquant.errors import UserError
from medquant.models.nnunet_plans import Plans
from medquant.progress import Progress

Network = Callable[[torch.Tensor], torch.Tensor]
"""(1, channels, *patch) to logits (1, classes, *patch)."""


@dataclass(frozen=True)
class SlidingWindow:
    """How patches are laid over a scan. `networks`: those of the folds, whose logits are averaged."""

    networks: tuple[Network, ...]
    plans: Plans
    step_size: float
    mirroring_axes: tuple[int, ...]
    device: torch.device

    def slabs(self, data: torch.Tensor, progress: Progress) -> Iterator[torch.Tensor]:
        """Float16 logits (classes, planes, rows, columns), consecutive planes along the first axis of `data`.

        `data`: float32 (1, *grid). A slab is overwritten when the next one is asked for. Raises `UserError` for values
        that are not finite.
        """
        padded, inside = self.plans.padded(data)
        _, inside_planes, *inside_plane = inside
        planes, *plane = padded.shape[1:]
        patches = self.plans.patches((planes, *plane), self.step_size)
        passes = _Passes(self, padded, patches, progress)
        weight = self.plans.gaussian(self.device)
        weight = weight if weight.ndim == 3 else weight[None]  # a patch of a 2-D configuration is one plane
        depth, classes = len(weight), self.plans.labels.num_segmentation_heads
        sums = [torch.zeros((classes, depth, *plane), dtype=torch.half, device=self.device) for _ in self.networks]
        weights = torch.zeros((depth, *plane), dtype=torch.half, device=self.device)

        starts = [where[1] if isinstance(where[1], int) else where[1].start for where in patches]
        for number, (start, following) in enumerate(itertools.pairwise([*starts, planes])):
            place = (slice(None), *patches[number][2:])
            for fold, held in enumerate(sums):
                _add(held[(slice(None), *place)], passes.logits(number, fold), weight)
            weights[place] += weight
            final = min(following - start, depth)
            if not final:
                continue
            logits = self._mean(sums, weights, final)
            first, last = max(inside_planes.start - start, 0), min(inside_planes.stop - start, final)
            if first < last:
                yield logits[(slice(None), slice(first, last), *inside_plane)].cpu()
            for held in (*sums, weights):
                _advance(held, final)

    def _mean(self, sums: list[torch.Tensor], weights: torch.Tensor, planes: int) -> torch.Tensor:
        """The folds' logits in the first planes, each divided by the weights, then averaged: all in float16."""
        total, *others = [held[:, :planes].div_(weights[:planes]) for held in sums]
        for logits in others:
            total.add_(logits)
        total = total.div_(len(sums)) if others else total
        if not all(torch.isfinite(plane).all() for plane in total.unbind(1)):  # of all at once it takes 250 MB
            raise UserError(
                "The network gave values that are not finite. Its weights or the scan's intensities are not usable."
            )
        return total


class _Passes:
    """The patches of a scan through the networks, each with its mirror images.

    Patches without contrast, as air is once its intensities are clipped, differ by their value only. Those of one
    value are computed once, and their mirror images, which are the same patch again, not at all.
    """

    def __init__(
        self, window: SlidingWindow, padded: torch.Tensor, patches: list[tuple[Any, ...]], progress: Progress
    ) -> None:
        self.window, self.padded, self.patches, self.progress = window, padded, patches, progress
        axes = [axis + 2 for axis in window.mirroring_axes if axis < len(window.plans.patch_size)]
        self.mirrors = [c for size in range(1, len(axes) + 1) for c in itertools.combinations(axes, size)]
        self.done, self.total = 0, len(patches) * len(window.networks)
        self.values = [only_value(padded[where]) for where in patches]
        self.known: dict[tuple[int, float], torch.Tensor] = {}

    def logits(self, number: int, fold: int) -> torch.Tensor:
        """Float32 (classes, planes, rows, columns) of one patch by the network of one fold."""
        self.progress.report(self.done / self.total, f"Patch {self.done + 1} of {self.total}")
        self.done += 1
        value = self.values[number]
        if (fold, value) in self.known:
            found = self.known[fold, value]
        else:
            patch = self.padded[self.patches[number]][None].contiguous().to(self.window.device)
            found = self._mirrored(self.window.networks[fold], patch, plain=value is not None)[0]
        if value is not None:
            again = value in self.values[number + 1 :]
            self.known = {key: held for key, held in self.known.items() if key[1] == value and again}
            if again:
                self.known[fold, value] = found
        return found if found.ndim == 4 else found[:, None]

    def _mirrored(self, network: Network, patch: torch.Tensor, plain: bool) -> torch.Tensor:
        """The mean over the patch and its mirror images; a `plain` one is its own mirror image."""
        first = network(patch)
        total = first.clone() if plain and self.mirrors else first
        for mirror in self.mirrors:
            self.progress.check()
            total += torch.flip(first if plain else network(torch.flip(patch, mirror)), mirror)
        return total.div_(len(self.mirrors) + 1) if self.mirrors else total


def only_value(patch: torch.Tensor) -> float | None:
    """The value of all voxels of a patch; None where there are several."""
    low, high = torch.aminmax(patch)
    return float(low) if low == high else None


def _add(held: torch.Tensor, logits: torch.Tensor, weight: torch.Tensor) -> None:
    """Add the weighted logits to float16 sums, class by class: the products are float32, as nnunetv2's."""
    for total, one in zip(held, logits, strict=True):
        total += one * weight


def _advance(held: torch.Tensor, planes: int) -> None:
    """Drop the first planes (along the axis before rows and columns) and put empty ones at the end."""
    kept = held.shape[-3] - planes
    for one in held if held.ndim == 4 else [held]:
        if kept:
            one[:kept] = one[planes:].clone()
        one[kept:] = 0
