"""Every layer rounded in several ways in one pass of the FP32 network, to be put into it one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.errors import UserError
from medquant.gram import Moments
from medquant.input_grid import InputGrid
from medquant.jobs import LayerJob, layer_jobs
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationBatch, Model
from medquant.products import product
from medquant.progress import Progress
from medquant.quantization_run import QuantizationRun
from medquant.recipe import Recipe
from medquant.rounding import seen_rows
from medquant.shared_inputs import SeenInputs


@dataclass(frozen=True, order=True)
class Rounding:
    """Bits of a layer's weight and of its input; None leaves either in floating point."""

    weights: int | None = 4
    activations: int | None = None
    nominal: int | None = None
    """Bits of the model as a whole, whose noise decides which channels are left out; None: those of the weights."""

    def __post_init__(self) -> None:
        if self.weights is None and self.activations is None:
            raise UserError("Nothing would be rounded. Give bits of the weights, of the activations, or of both.")

    @property
    def label(self) -> str:
        """ "W4", "A8" or "W4A8"."""
        parts = ("W", self.weights), ("A", self.activations)
        return "".join(f"{letter}{bits}" for letter, bits in parts if bits is not None)

    def recipe(self, base: Recipe) -> Recipe:
        """`base` with these bits in every layer."""
        activations = None
        if self.activations is not None:
            activations = replace(base.activations or IntActivations(), bits=self.activations)
        bits = self.weights or 8
        everywhere = replace(uniform(base, self.nominal or bits), activations=activations, float_inputs=())
        return replace(everywhere, overrides={"*": everywhere.grid(bits)})


WHAT = ("weights", "activations", "both")
"""What of a layer is rounded."""


def roundings_of(bits: Sequence[int], what: str = "weights") -> tuple[Rounding, ...]:
    """One for each number of bits, of one of `WHAT`. Raises `UserError` where it is none of them."""
    if what not in WHAT:
        raise UserError(f"Unknown part {what!r}. Choose {', '.join(WHAT)}.")
    return tuple(Rounding(n if what != "activations" else None, n if what != "weights" else None) for n in bits)


@dataclass(frozen=True)
class Trial:
    """One layer rounded in one way."""

    module: nn.Module
    """Computes what the layer computes."""
    relative_error: float
    """Of the layer's own output, on the calibration positions."""
    stored_bits: int
    """Of everything that stands for the weight in the file."""


def uniform(recipe: Recipe, bits: int) -> Recipe:
    """A recipe with the same bits in every layer, and layers that are fitted each to the FP32 network's inputs."""
    calibration = replace(recipe.calibration, sequential=False)
    weights = replace(recipe.weights, bits=bits)
    return replace(recipe, weights=weights, ends_bits=None, extra_bits=0.0, overrides={}, calibration=calibration)


class TrialRun(QuantizationRun):
    """Like a quantization that is not sequential, but with several results for each layer; none is put in its place.

    Afterwards `network` is the FP32 network with its norms folded, as quantization would have it.
    """

    def __init__(
        self,
        model: Model,
        batches: list[CalibrationBatch],
        recipe: Recipe,
        roundings: Sequence[Rounding],
        ignore: Sequence[str],
        max_memory_mb: float | None,
        tracker: Progress,
    ) -> None:
        super().__init__(model, batches, uniform(recipe, recipe.weights.bits), ignore, max_memory_mb, tracker)
        self._recipes = {rounding: rounding.recipe(recipe) for rounding in roundings}
        self._inputs_seen = {rounding: SeenInputs() for rounding in roundings}
        self._known: tuple[str, list[tuple[Moments, Moments]]] = ("", [])
        self._variants: dict[Rounding, dict[str, LayerJob]] = {}
        self.jobs: dict[str, LayerJob] = {}
        self.trials: dict[Rounding, dict[str, Trial]] = {rounding: {} for rounding in roundings}
        self.tried: Callable[[str, Rounding, Trial], None] = lambda *_: None
        """Gets each layer, rounded in one way, as soon as it is."""

    def run(self) -> None:
        """Round every layer in every way."""
        self.jobs = self.prepare()
        for rounding, recipe in self._recipes.items():
            self._variants[rounding], _ = layer_jobs(self.network, self.seen, recipe, self.ignore)
        self._independent(self.jobs)

    def _solve(self, job: LayerJob, inputs: list[torch.Tensor], full: list[torch.Tensor] | None) -> None:
        for rounding, recipe in self._recipes.items():
            self.recipe, self.seen_inputs = recipe, self._inputs_seen[rounding]
            asked = self._variants[rounding][job.name]
            trial = self._input_alone(asked, inputs) if rounding.weights is None else self._rounded(asked, inputs)
            self.trials[rounding][job.name] = trial
            self.tried(job.name, rounding, trial)

    def moments(self, job: LayerJob, inputs: list[torch.Tensor], *rest: Any) -> list[tuple[Moments, Moments]]:
        """Those of the layer's FP32 input are the same for all bits."""
        if job.activations is not None:
            return super().moments(job, inputs, *rest)
        if self._known[0] != job.name:
            self._known = job.name, super().moments(job, inputs, *rest)
        return self._known[1]

    def _rounded(self, job: LayerJob, inputs: list[torch.Tensor]) -> Trial:
        layer, report = self.solved(job, inputs, None)
        return Trial(layer, report.relative_error, layer.stored_bits())

    def _input_alone(self, job: LayerJob, inputs: list[torch.Tensor]) -> Trial:
        grid = self.input_grid(job, inputs)
        target = grid.job(job)
        rounded, full = seen_rows(target, inputs, self.focus_of, self.recipe, grid, self.tracker.check)
        weights = job.geometry.layout.to_matrices(target.weight)
        squared = [0.0, 0.0]
        for weight, seen, before in zip(weights, rounded, full, strict=True):
            wanted = product(before, weight)
            squared[0] += float((product(seen, weight) - wanted).square().sum())
            squared[1] += float(wanted.square().sum())
        error = (squared[0] / max(squared[1], 1e-30)) ** 0.5
        return Trial(_RoundedInput(target, grid), error, 32 * job.weight.numel())


class _RoundedInput(nn.Module):
    """A layer with its FP32 weight and an input of integers."""

    def __init__(self, job: LayerJob, grid: InputGrid) -> None:
        super().__init__()
        self._job, self._grid = job, grid

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        return self._job.full(self._grid.rounded(input, self._job.geometry), output_size)


@contextmanager
def exchanged(network: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, the named layers of a network compute what `layers` do; their modules stay where they are."""
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(_as(network.get_submodule(name), layer))
        yield


@contextmanager
def _as(module: nn.Module, other: nn.Module) -> Iterator[None]:
    before = module.__dict__.get("forward")
    decoded = isinstance(other, QuantizedLayer) and other._decoded is None
    if decoded:
        other._decoded = other.weight
    module.forward = other.forward
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if before is not None:
            module.forward = before
        if decoded:
            other._decoded = None
