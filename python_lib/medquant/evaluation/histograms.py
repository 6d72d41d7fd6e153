"""How the numbers of each layer are spread: its weights, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from medquant.evaluation.activations import first_inputs
from medquant.models.base import CalibrationBatch, Model
from medquant.network_edit import stoppable, structural_twin
from medquant.progress import CancelCheck, Progress, ProgressCallback

BINS = 48


@dataclass(frozen=True)
class Histogram:
    """Counts in `BINS` even bins from `minimum` to `maximum`; numbers that are not finite are left out."""

    minimum: float
    maximum: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: torch.Tensor) -> Histogram:
        """Of a tensor of any shape."""
        values = values.detach().float().flatten()
        values = values[values.isfinite()]
        if not len(values):
            return cls(0.0, 0.0, (0,) * BINS)
        low, high = (float(end) for end in values.aminmax())
        if low == high:  # all of them in the middle
            counts = [0] * BINS
            counts[BINS // 2] = len(values)
        else:
            counts = [int(count) for count in torch.histc(values, BINS, low, high)]
        return cls(low, high, tuple(counts))


@dataclass(frozen=True)
class LayerHistograms:
    """One layer."""

    layer: str
    weights: Histogram
    inputs: Histogram
    """Of its first call for one calibration input."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def layer_histograms(
    model: Model,
    batches: Sequence[CalibrationBatch],
    *,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> tuple[LayerHistograms, ...]:
    """The layers that can be quantized, in the order in which one pass of the FP32 network for `batches[0]` calls them.

    Raises `Cancelled` when stopped.
    """
    tracker = Progress(progress, cancelled)
    network = structural_twin(model.network)
    found: list[LayerHistograms] = []

    def look(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
        tracker.report(0.5, f"Looking at layer {len(found) + 1}")
        found.append(LayerHistograms(name, Histogram.of(module.weight), Histogram.of(inputs)))

    with stoppable(network, tracker.check), torch.inference_mode(), first_inputs(network, look):
        model.forward_for_calibration(network, *batches[0].inputs)
    return tuple(found)
