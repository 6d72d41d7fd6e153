"""What flows between the layers: how large, how even, and where in the image the outliers are.

Kurtosis is the fourth standardized moment, 3 for a normal distribution (MedQuanBench, Fig. 1b and appendix C): "within
channels" over the positions of each channel, "across channels" over the channels at each position (a voxel, a token).
Outliers that sit at few places within many channels give a large kurtosis within and a small one across: what the paper
finds in medical networks, the opposite of language models. Rows that only fill up windows are left out of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.evaluation.kurtosis import kurtosis, mean_of_known, quantiles_of_known
from medquant.evaluation.outlier_maps import OutlierMap, outlier_map
from medquant.evaluation.smoothed_layer import SmoothedLayer, factors, known_or_none, smoothed_layer
from medquant.imaging.volume import Volume
from medquant.matrices import by_channel, is_quantizable
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.network_edit import stoppable, structural_twin
from medquant.progress import CancelCheck, Progress, ProgressCallback

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
    """Rows that count: without those of padding."""
    padding: float
    """Part of all rows that windows or blocks were filled up with; they are in none of the figures."""
    placed: bool
    """Whether its rows have a place in the image; queries of a decoder have none."""
    segmenting: bool
    """False where calibration alone runs the layer, as those of mask prompts; then it is in no picture."""
    minimum: float
    maximum: float
    mean: float
    deviation: float
    histogram: tuple[int, ...]
    """Counts in `BINS` even bins from `minimum` to `maximum`."""
    kurtosis_within: float
    """Mean over the channels that are not constant; NaN with too few positions (`kurtosis.FEWEST`)."""
    kurtosis_across: float
    """Mean over the positions that are not constant; NaN with too few channels."""
    quantiles_within: tuple[float, ...]
    """Of the channels' kurtosis, at `kurtosis.QUANTILES`: it spans decades, of which the mean tells the top alone."""
    quantiles_across: tuple[float, ...]
    """Of the positions'."""
    outliers: float
    """Part of all numbers beyond `OUTLIER` standard deviations of their channel."""
    smoothed_ratio: float
    """Largest over median channel maximum after smoothing with alpha 0.5, over the same before: below 1 is evener."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not known is None."""
        told = {**asdict(self), "histogram": list(self.histogram)}
        for name in ("kurtosis_within", "kurtosis_across"):
            told[name] = known_or_none(told[name])
        for name in ("quantiles_within", "quantiles_across"):
            told[name] = [known_or_none(value) for value in told[name]]
        return told


@dataclass(frozen=True)
class ActivationStudy:
    """The layers in the order of the network, and where the arithmetic goes."""

    layers: tuple[LayerActivations, ...]
    flops: dict[str, int]
    """Multiplications and additions of one pass by kind of operation: "convolution", "linear", "attention"."""
    maps: tuple[OutlierMap, ...]
    """Where the outliers of the first input are, of the most peaked layers whose rows have a place."""
    picture: np.ndarray
    """The first input, its first channel: (z, y, x) or (y, x)."""
    smoothed: SmoothedLayer | None = None
    """The layer asked for, else the most peaked; None where no layer has several channels."""

    @property
    def drawn(self) -> tuple[LayerActivations, ...]:
        """The layers that a segmentation runs."""
        return tuple(layer for layer in self.layers if layer.segmenting)

    @property
    def compared(self) -> tuple[LayerActivations, ...]:
        """Those of them whose rows lie in the image, and of which both kurtoses are known."""

        def known(layer: LayerActivations) -> bool:
            return not np.isnan((layer.quantiles_within[1], layer.quantiles_across[1])).any()

        return tuple(layer for layer in self.drawn if layer.placed and known(layer))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "flops": self.flops,
            "outliers": [one.to_dict() for one in self.maps],
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

    One pass of the FP32 network for each calibration input, and one for each axis that finds where rows lie. `layer` is
    shown before and after smoothing (None: the most peaked). Raises `UserError` where there is no layer, or not the one
    asked for.
    """
    tracker = Progress(progress, cancelled)
    batches, _ = calibration_inputs(model, calibration, selection or CalibrationSelection(count=1), tracker)
    network = structural_twin(model.network)
    found: dict[str, list[torch.Tensor]] = {}
    rows: dict[str, int] = {}
    layers: list[LayerActivations] = []

    def real(name: str, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        values = by_channel(module, inputs)
        return values[:, ~places[name].isnan().any(0)] if name in places else values

    def look(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
        tracker.check()
        found.setdefault(name, []).append(real(name, module, inputs))
        rows[name] = rows.get(name, 0) + by_channel(module, inputs).shape[1]
        if len(found[name]) == len(batches):
            values = torch.cat(found.pop(name), 1)
            if values.shape[1]:
                only = any(fnmatchcase(name, pattern) for pattern in model.calibration_only)
                part = 1 - values.shape[1] / rows[name]
                layers.append(_described(name, module, values, part, name in places, not only))

    flops: dict[str, int] = {}
    shapes: list[torch.Size] = []
    places: dict[str, torch.Tensor] = {}
    with stoppable(network, tracker.check), torch.inference_mode():
        for number, batch in enumerate(batches):
            tracker.report(number / len(batches), f"Looking at input {number + 1} of {len(batches)}")
            if shapes != _shapes(batch):
                shapes, places = _shapes(batch), model.places(network, *batch.inputs)
            with FlopCounterMode(display=False) as counter, first_inputs(network, look):
                model.forward_for_calibration(network, *batch.inputs)
            flops = flops_by_kind(counter, network)
        if not layers:
            raise UserError("The network has no linear or convolution layer that is called. Choose another model.")
        by_peaks = sorted(layers, key=lambda one: -np.nan_to_num(one.kurtosis_within))
        by_peaks = sorted(by_peaks, key=lambda one: not one.segmenting)
        peaked = [one.layer for one in by_peaks if one.segmenting and one.placed and one.positions > 1][:MAPPED]
        several = [one.layer for one in by_peaks if one.channels > 1]
        if layer is not None and layer not in several:
            raise UserError(
                f"No layer called {layer} has an input of several channels. Choose one of the table, such as "
                f"{', '.join(several[:3])}."
            )
        shown = layer or next(iter(several), None)
        smoothed: list[SmoothedLayer] = []
        maps: dict[str, OutlierMap] = {}
        if shapes != _shapes(batches[0]):
            places = model.places(network, *batches[0].inputs)

        def draw(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
            if name in peaked:
                maps[name] = outlier_map(name, by_channel(module, inputs), places[name])
            if name == shown:
                smoothed.append(smoothed_layer(name, module, real(name, module, inputs)))

        with first_inputs(network, draw):
            model.forward_for_calibration(network, *batches[0].inputs)
    tracker.report(1.0, "Looked at")
    ordered = tuple(maps[name] for name in peaked if name in maps)
    picture = batches[0].inputs[0][0, 0].float().cpu().numpy()
    return ActivationStudy(tuple(layers), flops, ordered, picture, smoothed[0] if smoothed else None)


def _shapes(batch: CalibrationBatch) -> list[torch.Size]:
    """What decides where the rows of all layers lie."""
    return [value.shape for value in batch.inputs if torch.is_tensor(value)]


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


def _described(
    name: str, module: nn.Module, values: torch.Tensor, padding: float, placed: bool, segmenting: bool
) -> LayerActivations:
    """Of the inputs (channels, positions) of one layer."""
    low, high = (float(end) for end in values.aminmax())
    deviation, mean = torch.std_mean(values, 1, keepdim=True, correction=0)
    far = (values - mean).abs() > OUTLIER * deviation.clamp_min(1e-12)
    within, across = kurtosis(values, 1), kurtosis(values, 0)
    counts = torch.histc(values, BINS, low, high) if high > low else torch.tensor([values.numel()] + [0] * (BINS - 1))
    largest = values.abs().amax(1)
    smoothed = largest / factors(module, largest)
    return LayerActivations(
        layer=name,
        kind=type(module).__name__,
        channels=len(values),
        positions=values.shape[1],
        padding=padding,
        placed=placed,
        segmenting=segmenting,
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


def _unevenness(largest: torch.Tensor) -> float:
    """Largest over median of the channels in use."""
    used = largest[largest > 0]
    return float(used.max() / used.median()) if len(used) else 1.0


@contextmanager
def first_inputs(network: nn.Module, look: Callable[[str, nn.Module, torch.Tensor], None]) -> Iterator[None]:
    """Inside, `look` gets each layer's input at its first call."""
    seen: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if name not in seen:
                seen.add(name)
                look(name, module, arguments[0] if arguments else keywords["input"])

        return before

    layers = [(name, module) for name, module in network.named_modules() if is_quantizable(module)]
    hooks = [module.register_forward_pre_hook(hook(name), with_kwargs=True) for name, module in layers]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
