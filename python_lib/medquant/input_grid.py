"""Where the integers of one layer's input lie: sampled rows, a factor for each channel, the range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from medquant.activations import ActivationQuantizer, fit_quantizer, spread_of
from medquant.geometry import LayerGeometry
from medquant.gram import draw_positions
from medquant.input_trial import InputTrial
from medquant.jobs import LayerJob
from medquant.layers import QuantizedLayer, divided, multiplied
from medquant.matrices import input_rows, spatial_grid
from medquant.recipe import CalibrationSettings

ROWS, ROWS_BY_OUTPUT = 1024, 4096
"""Positions at which the error of a rounded layer is looked at: for the factors of its channels, and where the ends of
the range are searched by it as well."""
VALUES = 2**16
LEAST_VALUES, MOST_NUMBERS = 2**12, 2**23
"""Positions at which the range of its input is looked at, over all calibration inputs; fewer where there are many
channels, down to `LEAST_VALUES`.

Both where the network sees structures, as far as there are any: a range that also spans what lies outside, bones and
tables in a CT, has too few levels left for what is segmented.
"""
OWN_DRAWS = 499
"""Keeps these draws apart from those of the moments."""
WORSE = 1.5
"""So much larger the squared error of a layer may get when it takes over a grid of which nothing is rounded twice."""


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
        if self.quantizer.mode == "static" and self.quantizer.spread == "tensor" and not self.quantizer.dither:
            return plain, self.quantizer.undithered(plain)  # the same numbers, of the few that are looked at
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
    job: LayerJob,
    inputs: Sequence[torch.Tensor],
    focus_of: FocusOf,
    settings: CalibrationSettings,
    shared: tuple[slice, InputGrid] | None = None,
) -> InputGrid:
    """The grid for a layer that gets `inputs`, one for each calibration input.

    `shared`: channels that another layer reads as well, with its grid, which is taken over where that costs little.
    """
    activations = job.activations
    if activations is None:
        return InputGrid()
    by_output = activations.observer == "output" and activations.mode == "static"
    rows, values = input_samples(job, inputs, focus_of, settings, ROWS_BY_OUTPUT if by_output else ROWS)
    equalize = activations.equalize
    if spread_of(activations, job.geometry) != "tensor" or job.geometry.groups > 1 or not (equalize or by_output):
        return InputGrid(None, fit_quantizer(activations, job.geometry, values))
    trial = InputTrial.of(job, activations, rows, values)
    divisor = trial.best()[1] if equalize else None
    quantizer = fit_quantizer(activations, job.geometry, values if divisor is None else values / divisor)
    if by_output:
        quantizer = trial.refined(divisor, quantizer)
    if shared is not None and equalize and _exchangeable(quantizer, shared[1].quantizer):
        channels, other = shared
        error, joint = trial.best_beside(other.quantizer, channels, other.divisor)
        if error <= WORSE * trial.error(divisor, quantizer):
            return InputGrid(joint, other.quantizer)
    return InputGrid(divisor, quantizer)


def input_samples(
    job: LayerJob, inputs: Sequence[torch.Tensor], focus_of: FocusOf, settings: CalibrationSettings, most: int = ROWS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (positions, channels, kernel size) of a layer's inputs, `most` of them or so, and values (positions,
    channels) that tell its range."""
    share = settings.share_for(job.activations)
    rows, values = [], []
    for number, tensor in enumerate(inputs):
        generator = job.generator(settings.seed, number + OWN_DRAWS)
        grid = spatial_grid(job.module, tensor)
        focus = focus_of(job, number, grid)
        count = job.geometry.layout.at_most(most) // len(inputs) + 1
        positions = draw_positions(focus, torch.Size(grid).numel(), count, share, generator)
        rows.append(_rows_at(job, tensor, positions))
        last = tensor if job.geometry.kind == "Linear" else tensor.movedim(1, -1)
        focus = focus_of(job, number, tuple(last.shape[:-1]))
        count = max(LEAST_VALUES, min(VALUES, MOST_NUMBERS // last.shape[-1])) // len(inputs) + 1
        positions = draw_positions(focus, last[..., 0].numel(), count, share, generator)
        values.append(last.reshape(-1, last.shape[-1])[positions])
    return torch.cat(rows), torch.cat(values)


def _exchangeable(one: ActivationQuantizer, other: ActivationQuantizer | None) -> bool:
    """Whether two grids differ by their ends only, for which the factors of the channels can make up."""
    if other is None or one.mode != other.mode or one.settings() != other.settings():
        return False
    return one.mode == "static" and not one.dither


def _rows_at(job: LayerJob, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows (positions, channels, kernel size) of the layer's input."""
    layout = job.geometry.layout
    rows = input_rows(job.module, inputs, positions).transpose(0, 1)
    return rows.reshape(len(positions), layout.groups * layout.inputs, -1)
