"""Grids for a layer's input tried on the layer: factors for its channels, and the ends of its range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from medquant.activation_settings import IntActivations
from medquant.activations import ActivationQuantizer, fit_quantizer
from medquant.grid import initial_grid
from medquant.jobs import LayerJob
from medquant.observers import find_range, grid_of
from medquant.products import product

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How much of the difference between channels may move into the weights (alpha of SmoothQuant, Xiao et al. 2023)."""
CLIPPING = (1.0, 0.8, 0.6)
STRETCHES = (0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4)
"""By what the ends of a range are multiplied in search of the least error of the output."""
OUTPUTS, FEW_POSITIONS, FEW_VALUES = 128, 256, 2**15
"""Outputs, positions and numbers of the input, with which factors are tried."""


@dataclass(frozen=True)
class InputTrial:
    """A layer with samples of its input. Every error is that of evenly spread outputs, input and weight both rounded.

    Factors (channels,) divide the channels of the input, and the weights are multiplied by them: with one scale for
    all channels they do the work of many scales.
    """

    job: LayerJob
    settings: IntActivations
    rows: torch.Tensor
    """(positions, channels, kernel size)."""
    values: torch.Tensor
    """(positions, channels), thinned out."""
    blocks: torch.Tensor
    """The weights of some outputs, (channels, kernel size, outputs)."""
    wanted: torch.Tensor
    reach: torch.Tensor
    strength: torch.Tensor

    @classmethod
    def of(cls, job: LayerJob, settings: IntActivations, rows: torch.Tensor, values: torch.Tensor) -> InputTrial:
        """`rows` (positions, channels, kernel size) meet the weights, `values` (positions, channels) tell the range."""
        layout = job.geometry.layout
        matrix = layout.to_matrices(job.weight)[0]
        levels = 2**settings.bits - settings.symmetric
        low, high = find_range(values.T, levels, settings.observer, symmetric=settings.symmetric)
        strength = matrix.reshape(layout.inputs, -1).abs().amax(1)
        outputs = matrix.reshape(len(matrix), -1, layout.share)
        matrix = outputs[:, :: -(-outputs.shape[1] // OUTPUTS)].flatten(1)
        blocks = matrix.reshape(layout.inputs, -1, matrix.shape[1])
        few = values[:: max(1, len(values) // max(FEW_POSITIONS, FEW_VALUES // values.shape[1]))]
        return cls(job, settings, rows, few, blocks, product(rows.flatten(1), matrix), high - low, strength)

    def best(self) -> tuple[float, torch.Tensor | None]:
        """The least error, and the factors that have it; None where no factors are best.

        The reach of a channel moves into its weights with the powers of SmoothQuant.
        """
        found = [(self.error_divided(divisor), divisor) for divisor in (None, *self._candidates())]
        return min(found, key=lambda one: one[0])

    def error_divided(self, divisor: torch.Tensor | None) -> float:
        """The error with these factors and the grid that is fitted to what they leave."""
        return self.error(divisor, self._fitted(self.values if divisor is None else self.values / divisor))

    def best_beside(
        self, quantizer: ActivationQuantizer, channels: slice, divisor: torch.Tensor | None
    ) -> tuple[float, torch.Tensor]:
        """The same where `quantizer` is given, and the factors of some `channels` as well (None: all one).

        The other channels get factors that bring their range to the quantizer's.
        """
        given = torch.ones(len(self.reach))
        given[channels] = 1.0 if divisor is None else divisor
        others = torch.ones(len(self.reach), dtype=torch.bool)
        others[channels] = False
        if not others.any():
            return self.error(given, quantizer), given
        found = []
        for candidate in (torch.ones(len(self.reach)), *self._candidates()):
            own = self._fitted((self.values / candidate)[:, others])
            shares = [end / given_end for (_, end), (_, given_end) in zip(_ends(own), _ends(quantizer)) if end != 0]
            factors = torch.where(others, candidate * max(shares, default=1.0), given)
            if not torch.isfinite(factors).all():  # the other grid has no negative numbers
                continue
            found.append((self.error(factors, quantizer), factors))
        return min(found, key=lambda one: one[0], default=(math.inf, given))

    def refined(self, divisor: torch.Tensor | None, quantizer: ActivationQuantizer) -> ActivationQuantizer:
        """The quantizer with its ends moved to where the layer's output errs least: both together, then each alone."""
        best = self.error(divisor, quantizer), quantizer
        for moving in ("both",) if quantizer.symmetric else ("both", "low", "high"):
            start = best[1]
            for factor in STRETCHES:
                low, high = (end * (factor if moving in ("both", name) else 1.0) for name, end in _ends(start))
                scale, zero = grid_of(low, high, quantizer.levels)
                tried = ActivationQuantizer(**quantizer.settings(), scale=scale, zero=zero.to(torch.int32))
                best = min(best, (self.error(divisor, tried), tried), key=lambda one: one[0])
        return best[1]

    def _candidates(self) -> Iterator[torch.Tensor]:
        for alpha in STRENGTHS:
            divisor = _positive(self.reach) ** alpha / _positive(self.strength) ** (1 - alpha)
            yield divisor / divisor.log().mean().exp()

    def error(self, divisor: torch.Tensor | None, quantizer: ActivationQuantizer | None) -> float:
        """The squared error over the sampled rows; without a quantizer only the weight is rounded."""
        rows, blocks = self.rows, self.blocks
        if divisor is not None:
            rows, blocks = rows / divisor[:, None], blocks * divisor[:, None, None]
        rounded = (rows if quantizer is None else quantizer.undithered(rows)).flatten(1)
        matrix = blocks.flatten(0, 1)
        one_group = torch.zeros(len(matrix), dtype=torch.long)
        share, importance = self.job.geometry.layout.share, rounded.square().mean(0)
        grid = initial_grid(matrix, importance, self.job.bits, one_group, share=share, factors=CLIPPING)
        return float((product(rounded, grid.decode(grid.encode(matrix))) - self.wanted).square().sum())

    def _fitted(self, values: torch.Tensor) -> ActivationQuantizer:
        return fit_quantizer(self.settings, self.job.geometry, values, most=FEW_VALUES)


def _ends(quantizer: ActivationQuantizer) -> tuple[tuple[str, torch.Tensor], tuple[str, torch.Tensor]]:
    """The values of the outermost levels, called "low" and "high"."""
    low = -quantizer.zero * quantizer.scale
    return ("low", low), ("high", low + (quantizer.levels - 1) * quantizer.scale)


def _positive(values: torch.Tensor) -> torch.Tensor:
    """A channel that is nearly silent must not be amplified without bound."""
    return values.clamp_min(1e-3 * float(values.max()) + 1e-12)
