"""Which layers break first: each layer quantized by itself, and what that does to the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from medquant.errors import UserError
from medquant.evaluation.replay import Replay
from medquant.granularity import PerTensor
from medquant.grid import initial_grid
from medquant.imaging.volume import Volume
from medquant.matrices import Layout, is_quantizable
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.network_edit import stoppable, structural_twin
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.recipe import IntWeights
from medquant.solvers.solve import rows_to_groups

BITS = (2, 4, 8)


@dataclass(frozen=True)
class LayerEffect:
    """One layer at one bit-width."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    share: float
    """Its part of all layers' weights, 0 to 1."""
    bits: int
    effect: float
    """||f_q(x) - f(x)|| / ||f(x)|| of the network's output with this layer alone quantized; 0: no effect."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class SensitivityMap:
    """The effects of all layers at all bit-widths."""

    layers: tuple[str, ...]
    """In the order of the network."""
    bits: tuple[int, ...]
    cells: tuple[LayerEffect, ...]

    def worst(self, count: int = 5) -> tuple[str, ...]:
        """The layers with the largest effect at the fewest bits, the largest first."""
        fewest = [cell for cell in self.cells if cell.bits == min(self.bits)]
        return tuple(cell.layer for cell in sorted(fewest, key=lambda cell: -cell.effect)[:count])


def sensitivity(
    model: Model,
    calibration: Volume | Sequence[CalibrationBatch],
    *,
    bits: Sequence[int] = BITS,
    weights: IntWeights | None = None,
    selection: CalibrationSelection | None = None,
    partial: Callable[[LayerEffect], None] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> SensitivityMap:
    """Round one layer at a time to each of `bits` and measure the relative error of the network's output.

    The layers are rounded to the nearest level of a grid whose ends are searched, without a solver: this ranks layers,
    it does not predict the error of a recipe. `weights` gives the grid's granularity. The fewest bits come first, as
    they tell most, and each effect goes to `partial` as soon as it is known. `model` stays as it is. Raises `UserError`
    where nothing can be calibrated with, `Cancelled` when stopped.
    """
    tracker = Progress(progress, cancelled)
    widths = tuple(sorted(set(bits)))
    grids = {width: replace(weights or IntWeights(), bits=width) for width in widths}
    tracker.report(0.0, "Preparing the slices")
    batches = _batches(model, calibration, selection or CalibrationSelection(count=1), tracker.span(0.0, 0.03))
    network = structural_twin(model.network)
    with stoppable(network, tracker.check), torch.inference_mode():
        passes = [_Pass(model, network, batch) for batch in batches]
        tracker.report(0.03, "Looking at the network")
        outputs = [one.record() for one in passes]
        called = passes[0].replay.began
        layers = {name: m for name in called if is_quantizable(m := network.get_submodule(name))}
        total = sum(module.weight.numel() for module in layers.values())
        work = [(width, name) for width in widths for name in layers]
        cost = {name: passes[0].replay.part_of_a_pass(name) for name in layers}
        whole, done, cells = sum(cost[name] for _, name in work), 0.0, []
        rest = tracker.span(0.05, 1.0)
        for number, (width, name) in enumerate(work):
            rest.report(done / whole, f"{width} bits: layer {number % len(layers) + 1} of {len(layers)}")
            module = layers[name]
            with _rounded(module, grids[width]):
                errors = [_relative(one.again(name), output) for one, output in zip(passes, outputs, strict=True)]
            done += cost[name]
            shape, share = tuple(module.weight.shape), module.weight.numel() / total
            kind = type(module).__name__
            cells.append(LayerEffect(name, kind, shape, share, width, sum(errors) / len(errors)))
            if partial is not None:
                partial(cells[-1])
    tracker.report(1.0, "Measured")
    return SensitivityMap(tuple(layers), widths, tuple(cells))


class _Pass:
    """One input of the network, and what it gave."""

    def __init__(self, model: Model, network: nn.Module, batch: CalibrationBatch) -> None:
        self.replay = Replay(network)
        self._run = lambda: model.forward_for_calibration(network, *batch.inputs)

    def record(self) -> torch.Tensor:
        return self.replay.record(self._run)

    def again(self, layer: str) -> torch.Tensor:
        return self.replay.again(layer, self._run)


def _batches(
    model: Model, calibration: Volume | Sequence[CalibrationBatch], selection: CalibrationSelection, tracker: Progress
) -> list[CalibrationBatch]:
    batches = calibration
    if isinstance(calibration, Volume):
        batches = model.calibration_batches(calibration, selection, tracker)
    batches = list(batches)
    if not batches:
        raise UserError("No part of the volume can be used. Choose other slices.")
    return batches


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    error = float((found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-12))
    return error if error == error else float("inf")


@contextmanager
def _rounded(module: nn.Module, weights: IntWeights) -> Iterator[None]:
    """Inside, a layer has its weight rounded to a grid."""
    before = module.weight
    module.weight = nn.Parameter(rounded_weight(module, weights), requires_grad=False)
    try:
        yield
    finally:
        module.weight = before


def rounded_weight(module: nn.Module, weights: IntWeights) -> torch.Tensor:
    """The weight of a layer on the nearest levels of its grid, the clipping factor searched."""
    layout = Layout.of(module)
    whole = isinstance(weights.granularity, PerTensor)
    rounded = []
    for matrix in layout.to_matrices(module.weight.detach().float()):
        groups = rows_to_groups(matrix, weights, gather=False)
        share = matrix.shape[1] if whole else layout.share
        grid = initial_grid(matrix, torch.ones(len(matrix)), weights, groups, share=share)
        rounded.append(grid.decode(grid.encode(matrix)))
    return layout.to_weight(torch.stack(rounded)).to(module.weight.dtype)
