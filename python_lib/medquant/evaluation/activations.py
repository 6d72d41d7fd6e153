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
from medquant.evaluation.kurtosis import by_channel, kurtosis, mean_of_known, quantiles_of_known
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
ROWS = 240
"""Runs of positions in which one layer is shown before and after smoothing."""


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
    quantiles_within: tuple[float, ...]
    """Of the channels' kurtosis, at `kurtosis.QUANTILES`: it spans decades, of which the mean tells the top alone."""
    quantiles_across: tuple[float, ...]
    """Of the positions'."""
    outliers: float
    """Part of all numbers beyond `OUTLIER` standard deviations of their channel."""
    smoothed_ratio: float
    """Largest over median channel maximum after smoothing with alpha 0.5, over the same before: below 1 is evener."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "histogram": list(self.histogram)}


@dataclass(frozen=True)
class SmoothedLayer:
    """One layer's input before and after smoothing with alpha 0.5 (MedQuanBench, Fig. 5).

    Smoothing divides each channel by a number of its own, which evens the channels out; within a channel all stays in
    proportion, outliers at few places too.
    """

    layer: str
    before: np.ndarray
    """Absolute values (runs of positions, channels), the largest of each run; of the first input."""
    after: np.ndarray
    kurtosis_within: float
    """The same before and after: of each channel, mean over the channels."""
    kurtosis_across: float
    """Over the channels at each position, mean over the positions, before."""
    smoothed_kurtosis_across: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: of the values the largest of each channel."""
        told = asdict(self)
        for name in ("before", "after"):
            told[f"channel_maxima_{name}"] = told.pop(name).max(0).tolist()
        return told


@dataclass(frozen=True)
class ActivationStudy:
    """The layers in the order of the network, and where the arithmetic goes."""

    layers: tuple[LayerActivations, ...]
    flops: dict[str, int]
    """Multiplications and additions of one pass by kind of operation: "convolution", "linear", "attention"."""
    maps: dict[str, np.ndarray]
    """Of the layers with the most peaked channels: where the outliers of the first input are (see `outlier_map`)."""
    smoothed: SmoothedLayer | None = None
    """The layer asked for, else the most peaked; None where no layer has several channels."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: of each map the largest outlier and where it is."""
        maps = {
            name: {
                "shape": list(places.shape),
                "largest": float(places.max()),
                "at": [int(index) for index in np.unravel_index(places.argmax(), places.shape)],
            }
            for name, places in self.maps.items()
        }
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "flops": self.flops,
            "outliers": maps,
            "smoothed": self.smoothed and self.smoothed.to_dict(),
        }


def study_activations(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    selection: CalibrationSelection | None = None,
    layer: str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> ActivationStudy:
    """Look at the inputs of all linear, convolution and transposed convolution layers.

    One pass of the FP32 network for each calibration input. `layer` is shown before and after smoothing (None: the most
    peaked). Raises `UserError` where there is no layer, or not the one asked for.
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
        by_peaks = sorted(layers, key=lambda one: -one.kurtosis_within)
        peaked = {one.layer for one in by_peaks[:MAPPED]}
        several = [one.layer for one in by_peaks if one.channels > 1]
        if layer is not None and layer not in several:
            raise UserError(
                f"No layer called {layer} has an input of several channels. Choose one of the table, such as "
                f"{', '.join(several[:3])}."
            )
        shown = layer or next(iter(several), None)
        smoothed: list[SmoothedLayer] = []

        def draw(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
            if name in peaked:
                maps[name] = outlier_map(module, inputs)
            if name == shown:
                smoothed.append(smoothed_layer(name, module, inputs))

        with first_inputs(network, draw):
            model.forward_for_calibration(network, *batches[0].inputs)
    tracker.report(1.0, "Looked at")
    return ActivationStudy(tuple(layers), flops, maps, smoothed[0] if smoothed else None)


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


def smoothed_layer(name: str, module: nn.Module, inputs: torch.Tensor) -> SmoothedLayer:
    """A layer's input, and what it would be with its channels divided as `rewrites.smoothing` divides them."""
    before = by_channel(module, inputs)
    after = before / _factors(module, before.abs().amax(1))[:, None]

    def runs(values: torch.Tensor) -> np.ndarray:
        parts = values.abs().tensor_split(min(ROWS, values.shape[1]), 1)
        return torch.stack([part.amax(1) for part in parts]).numpy()

    many = len(before) >= 4
    across = [mean_of_known(kurtosis(values, 0)) if many else 0.0 for values in (before, after)]
    return SmoothedLayer(name, runs(before), runs(after), mean_of_known(kurtosis(before, 1)), *across)


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
    within, across = kurtosis(values, 1), kurtosis(values, 0) if len(values) >= 4 else torch.zeros(0)
    counts = torch.histc(values, BINS, low, high) if high > low else torch.tensor([values.numel()] + [0] * (BINS - 1))
    largest = values.abs().amax(1)
    smoothed = largest / _factors(module, largest)
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
        kurtosis_within=mean_of_known(within),
        kurtosis_across=mean_of_known(across),
        quantiles_within=quantiles_of_known(within),
        quantiles_across=quantiles_of_known(across),
        outliers=float(far.float().mean()),
        smoothed_ratio=_unevenness(smoothed) / max(_unevenness(largest), 1e-12),
    )


def _factors(module: nn.Module, largest: torch.Tensor) -> torch.Tensor:
    """What smoothing with alpha 0.5 divides each channel by, from its largest absolute value."""
    return smoothing_factors(largest, reach_of_inputs(module.weight.detach().float(), Layout.of(module)))


def _unevenness(largest: torch.Tensor) -> float:
    """Largest over median of the channels in use."""
    used = largest[largest > 0]
    return float(used.max() / used.median()) if len(used) else 1.0


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
