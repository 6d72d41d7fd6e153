"""What flows between the layers: how large, how even, and where in the image the outliers are.

Kurtosis is the fourth standardized moment, 3 for a normal distribution (MedQuanBench, Fig. 1b and appendix C): "within
channels" over the positions of each channel, "across channels" over the channels at each position (a voxel, a token).
Outliers that sit at few places within many channels give a large kurtosis within and a small one across: the pattern
of medical networks, the opposite of language models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.matrices import Layout, is_quantizable
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.network_edit import stoppable, structural_twin
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.rewrites.scaling import reach_of_inputs
from medquant.rewrites.smoothing import smoothing_factors

BINS = 64
OUTLIER = 6.0
"""Standard deviations of its channel beyond which a number is an outlier."""
MAPPED = 3
"""Layers whose outliers are drawn."""


@dataclass(frozen=True)
class LayerActivations:
    """What one layer gets, over all inputs looked at."""

    layer: str
    kind: str
    channels: int
    positions: int
    minimum: float
    maximum: float
    mean: float
    deviation: float
    histogram: tuple[int, ...]
    """Counts in `BINS` even bins from `minimum` to `maximum`."""
    kurtosis_within: float
    """Mean over the channels that are not constant."""
    kurtosis_across: float
    """Mean over the positions that are not constant; 0 with fewer than four channels."""
    outliers: float
    """Part of all numbers beyond `OUTLIER` standard deviations of their channel."""
    smoothed_ratio: float
    """Largest over median channel maximum after smoothing with alpha 0.5, over the same before: below 1 is evener."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "histogram": list(self.histogram)}


@dataclass(frozen=True)
class ActivationStudy:
    """The layers in the order of the network, and where the arithmetic goes."""

    layers: tuple[LayerActivations, ...]
    flops: dict[str, int]
    """Multiplications and additions of one pass by kind of operation: "convolution", "linear", "attention"."""
    maps: dict[str, np.ndarray]
    """Of the layers with the most peaked channels: where the outliers of the first input are (see `outlier_map`)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"layers": [layer.to_dict() for layer in self.layers], "flops": self.flops}


def study_activations(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    selection: CalibrationSelection | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> ActivationStudy:
    """Look at the inputs of all linear, convolution and transposed convolution layers.

    One pass of the FP32 network for each calibration input. Raises `UserError` where there is no such layer.
    """
    tracker = Progress(progress, cancelled)
    batches, _ = calibration_inputs(model, calibration, selection or CalibrationSelection(count=1), tracker)
    network = structural_twin(model.network)
    found: dict[str, list[torch.Tensor]] = {}
    layers: list[LayerActivations] = []

    def look(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
        tracker.check()
        found.setdefault(name, []).append(by_channel(module, inputs))
        if len(found[name]) == len(batches):
            layers.append(_described(name, module, torch.cat(found.pop(name), 1)))

    flops: dict[str, int] = {}
    with stoppable(network, tracker.check), torch.inference_mode():
        for number, batch in enumerate(batches):
            tracker.report(number / len(batches), f"Looking at input {number + 1} of {len(batches)}")
            with FlopCounterMode(display=False) as counter, first_inputs(network, look):
                model.forward_for_calibration(network, *batch.inputs)
            flops = flops_by_kind(counter, network)
        if not layers:
            raise UserError("The network has no linear or convolution layer that is called. Choose another model.")
        maps: dict[str, np.ndarray] = {}
        peaked = {layer.layer for layer in sorted(layers, key=lambda one: -one.kurtosis_within)[:MAPPED]}

        def draw(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
            if name in peaked:
                maps[name] = outlier_map(module, inputs)

        with first_inputs(network, draw):
            model.forward_for_calibration(network, *batches[0].inputs)
    tracker.report(1.0, "Looked at")
    return ActivationStudy(tuple(layers), flops, maps)


def by_channel(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A layer's input as (channels, positions), float32: channels are last for linear layers, second for others."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T.float()
    spatial = inputs.ndim - int(type(module).__name__[-2])
    channels = inputs.movedim(spatial - 1, 0)
    return channels.reshape(len(channels), -1).float()


def kurtosis(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Fourth standardized moment along an axis; NaN where nothing varies."""
    centred = values - values.mean(dim, keepdim=True)
    second = centred.square().mean(dim)
    scale = values.abs().amax(dim).clamp_min(torch.finfo(values.dtype).tiny)
    constant = second <= (1e-6 * scale).square()
    return torch.where(constant, torch.nan, centred.pow(4).mean(dim) / second.square())


def outlier_map(module: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Where the outliers are: at each place the largest distance from its channel's mean, in standard deviations.

    `inputs` (batch, channels, *spatial) or (batch, *places, channels); returns (batch, *spatial) or (batch, *places),
    float32.
    """
    channels = by_channel(module, inputs)
    deviation, mean = torch.std_mean(channels, 1, keepdim=True, correction=0)
    distance = ((channels - mean).abs() / deviation.clamp_min(1e-12)).amax(0)
    shape = inputs.shape[:-1] if isinstance(module, nn.Linear) else (inputs.shape[0], *inputs.shape[2:])
    return distance.reshape(shape).numpy()


def flops_by_kind(counter: FlopCounterMode, network: nn.Module) -> dict[str, int]:
    """What PyTorch's own counter saw: of convolutions, of linear layers, and of all other products, attention's."""
    counts = counter.get_flop_counts()
    whole = sum(counts.get("Global", {}).values())
    totals = {"convolution": 0, "linear": 0}
    by_layer: dict[nn.Module, int] = {}
    for name, module in network.named_modules(remove_duplicate=False):  # counted under one of its names
        if is_quantizable(module):
            seen = sum(counts.get(f"{type(network).__name__}.{name}", {}).values())
            by_layer[module] = max(seen, by_layer.get(module, 0))
    for module, seen in by_layer.items():
        totals["linear" if isinstance(module, nn.Linear) else "convolution"] += seen
    totals["attention"] = whole - sum(totals.values())
    return {kind: int(count) for kind, count in totals.items() if count}


def _described(name: str, module: nn.Module, values: torch.Tensor) -> LayerActivations:
    """Of the inputs (channels, positions) of one layer."""
    low, high = (float(end) for end in values.aminmax())
    deviation, mean = torch.std_mean(values, 1, keepdim=True, correction=0)
    far = (values - mean).abs() > OUTLIER * deviation.clamp_min(1e-12)
    across = kurtosis(values, 0) if len(values) >= 4 else torch.zeros(0)
    counts = torch.histc(values, BINS, low, high) if high > low else torch.tensor([values.numel()] + [0] * (BINS - 1))
    largest = values.abs().amax(1)
    strength = reach_of_inputs(module.weight.detach().float(), Layout.of(module))
    smoothed = largest / smoothing_factors(largest, strength)
    return LayerActivations(
        layer=name,
        kind=type(module).__name__,
        channels=len(values),
        positions=values.shape[1],
        minimum=low,
        maximum=high,
        mean=float(values.mean()),
        deviation=float(values.std(correction=0)),
        histogram=tuple(int(count) for count in counts),
        kurtosis_within=_mean(kurtosis(values, 1)),
        kurtosis_across=_mean(across),
        outliers=float(far.float().mean()),
        smoothed_ratio=_unevenness(smoothed) / max(_unevenness(largest), 1e-12),
    )


def _unevenness(largest: torch.Tensor) -> float:
    """Largest over median of the channels in use."""
    used = largest[largest > 0]
    return float(used.max() / used.median()) if len(used) else 1.0


def _mean(values: torch.Tensor) -> float:
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else 0.0


@contextmanager
def first_inputs(network: nn.Module, look: Callable[[str, nn.Module, torch.Tensor], None]) -> Iterator[None]:
    """Inside, `look` gets each layer's input at its first call."""
    seen: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if name not in seen:
                seen.add(name)
                look(name, module, arguments[0])

        return before

    layers = [(name, module) for name, module in network.named_modules() if is_quantizable(module)]
    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in layers]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
