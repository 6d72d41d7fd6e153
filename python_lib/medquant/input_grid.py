"""Where the integers of one layer's input lie: sampled rows, a factor for each channel, the range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from medquant.activation_settings import IntActivations
from medquant.activations import ActivationQuantizer, fit_quantizer, spread_of
from medquant.geometry import LayerGeometry
from medquant.gram import draw_positions
from medquant.grid import initial_grid
from medquant.jobs import LayerJob
from medquant.layers import QuantizedLayer, divided, multiplied
from medquant.matrices import input_rows, spatial_grid
from medquant.observers import find_range
from medquant.products import product
from medquant.recipe import CalibrationSettings

ROWS = 1024
"""Positions at which the error of a rounded layer is looked at."""
VALUES = 2**16
LEAST_VALUES, MOST_NUMBERS = 2**12, 2**23
"""Positions at which the range of its input is looked at, over all calibration inputs; fewer where there are many
channels, down to `LEAST_VALUES`.

Both where the network sees structures, as far as there are any: a range that also spans what lies outside, bones and
tables in a CT, has too few levels left for what is segmented.
"""
OUTPUTS, FEW_VALUES = 128, 2**14
"""Outputs, and numbers of the input, with which factors for the channels are tried."""
OWN_DRAWS = 499
"""Keeps these draws apart from those of the moments."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How much of the difference between channels may move into the weights (alpha of SmoothQuant, Xiao et al. 2023)."""
CLIPPING = (1.0, 0.8, 0.6)


FocusOf = Callable[[LayerJob, int, tuple[int, ...]], torch.Tensor | None]
"""(job, calibration input, grid of the layer) -> focus over the layer's rows."""


@dataclass(frozen=True)
class InputGrid:
    """What happens to a layer's input before it meets the weights: nothing, or division by channel and rounding."""

    divisor: torch.Tensor | None = None
    quantizer: ActivationQuantizer | None = None

    def divided(self, inputs: torch.Tensor, geometry: LayerGeometry) -> torch.Tensor:
        """The input in the units of the grid."""
        return inputs if self.divisor is None else divided(inputs, self.divisor, geometry)

    def rounded(self, inputs: torch.Tensor, geometry: LayerGeometry) -> torch.Tensor:
        """The input as the layer will see it."""
        inputs = self.divided(inputs, geometry)
        return inputs if self.quantizer is None else self.quantizer(inputs)

    def rows(self, job: LayerJob, inputs: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (groups, positions, m) of a layer's input, in the units of the grid: as they are, and rounded."""
        known = self.quantizer is None or self.quantizer.mode == "static"
        if job.geometry.kind == "Linear" and known:  # each position by itself: only those looked at are rounded
            inputs = inputs.reshape(-1, inputs.shape[-1])[positions]
            positions = torch.arange(len(inputs))
        inputs = self.divided(inputs, job.geometry)
        plain = input_rows(job.module, inputs, positions).float()
        if self.quantizer is None:
            return plain, plain
        return plain, input_rows(job.module, self.quantizer(inputs), positions).float()

    def job(self, job: LayerJob) -> LayerJob:
        """The job with the weight that belongs to the divided input."""
        if self.divisor is None:
            return job
        return replace(job, weight=multiplied(job.weight, self.divisor, job.geometry))

    def give_to(self, layer: QuantizedLayer) -> None:
        """Let the quantized layer do the same."""
        layer.input_divisor, layer.input_quantizer = self.divisor, self.quantizer


def fit_input(
    job: LayerJob, inputs: Sequence[torch.Tensor], focus_of: FocusOf, settings: CalibrationSettings
) -> InputGrid:
    """The grid for a layer that gets `inputs`, one for each calibration input."""
    activations = job.activations
    if activations is None:
        return InputGrid()
    share = settings.share_for(activations)
    rows, values = [], []
    for number, tensor in enumerate(inputs):
        generator = job.generator(settings.seed, number + OWN_DRAWS)
        grid = spatial_grid(job.module, tensor)
        focus = focus_of(job, number, grid)
        count = job.geometry.layout.at_most(ROWS) // len(inputs) + 1
        positions = draw_positions(focus, torch.Size(grid).numel(), count, share, generator)
        rows.append(_rows_at(job, tensor, positions))
        last = tensor if job.geometry.kind == "Linear" else tensor.movedim(1, -1)
        focus = focus_of(job, number, tuple(last.shape[:-1]))
        count = max(LEAST_VALUES, min(VALUES, MOST_NUMBERS // last.shape[-1])) // len(inputs) + 1
        positions = draw_positions(focus, last[..., 0].numel(), count, share, generator)
        values.append(last.reshape(-1, last.shape[-1])[positions])
    rows, values = torch.cat(rows), torch.cat(values)
    divisor = None
    if activations.equalize and spread_of(activations, job.geometry) == "tensor" and job.geometry.groups == 1:
        divisor = choose_divisor(job, activations, rows, values)
    if divisor is not None:
        values = values / divisor
    return InputGrid(divisor, fit_quantizer(activations, job.geometry, values))


def _rows_at(job: LayerJob, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows (positions, channels, kernel size) of the layer's input."""
    layout = job.geometry.layout
    rows = input_rows(job.module, inputs, positions).transpose(0, 1)
    return rows.reshape(len(positions), layout.groups * layout.inputs, -1)


def choose_divisor(
    job: LayerJob, settings: IntActivations, rows: torch.Tensor, values: torch.Tensor
) -> torch.Tensor | None:
    """The factors (channels,) with which the rounded layer errs least on the rows; None where no factors are best.

    `rows` (positions, channels, kernel size) meet the weights, `values` (positions, channels) decide the range.

    The reach of a channel moves into its weights with the powers of SmoothQuant. The error counted is that of evenly
    spread outputs, with both input and weight rounded.
    """
    layout = job.geometry.layout
    matrix = layout.to_matrices(job.weight)[0]
    levels = 2**settings.bits - settings.symmetric
    low, high = find_range(values.T, levels, settings.observer, symmetric=settings.symmetric)
    reach, strength = high - low, matrix.reshape(layout.inputs, -1).abs().amax(1)
    outputs = matrix.reshape(len(matrix), -1, layout.share)
    matrix = outputs[:, :: -(-outputs.shape[1] // OUTPUTS)].flatten(1)
    blocks = matrix.reshape(layout.inputs, -1, matrix.shape[1])
    wanted = product(rows.flatten(1), matrix)
    values = values[:: -(-values.numel() // FEW_VALUES)]
    best, chosen = _error(job, settings, rows, values, blocks, wanted), None
    for alpha in STRENGTHS:
        divisor = _positive(reach) ** alpha / _positive(strength) ** (1 - alpha)
        divisor = divisor / divisor.log().mean().exp()
        error = _error(
            job, settings, rows / divisor[:, None], values / divisor, blocks * divisor[:, None, None], wanted
        )
        if error < best:
            best, chosen = error, divisor
    return chosen


def _positive(values: torch.Tensor) -> torch.Tensor:
    """A channel that is nearly silent must not be amplified without bound."""
    return values.clamp_min(1e-3 * float(values.max()) + 1e-12)


def _error(
    job: LayerJob,
    settings: IntActivations,
    rows: torch.Tensor,
    values: torch.Tensor,
    blocks: torch.Tensor,
    wanted: torch.Tensor,
) -> float:
    quantizer = fit_quantizer(settings, job.geometry, values)
    quantizer.dither = False  # rows stand by themselves
    rounded = quantizer(rows).flatten(1)
    matrix = blocks.flatten(0, 1)
    one_group = torch.zeros(len(matrix), dtype=torch.long)
    share = job.geometry.layout.share
    grid = initial_grid(matrix, rounded.square().mean(0), job.bits, one_group, share=share, factors=CLIPPING)
    return float((product(rounded, grid.decode(grid.encode(matrix))) - wanted).square().sum())
