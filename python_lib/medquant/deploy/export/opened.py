"""A part whose packed weights come from outside, so that a writer can put its own form of them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.deploy.export.stored_weight import StoredWeight, stored_weight
from medquant.deploy.program import ExportedLayer, static_quantizer
from medquant.layers import QuantizedLayer
from medquant.models.base import Part
from medquant.network_edit import set_module, structural_twin
from medquant.packing import pack, unpack

STEM = "weight_"
"""What the inputs are called that stand for weights."""


@dataclass(frozen=True, eq=False)
class OpenedPart:
    """A part with further inputs, one for each weight that is to be stored as codes."""

    part: Part
    weights: dict[str, StoredWeight]
    """By the name of the input that stands for it."""


class _Given:
    """Where the weights of the pass that runs now are found."""

    def __init__(self) -> None:
        self.tensors: tuple[torch.Tensor, ...] = ()


class _GivenWeight(ExportedLayer):
    """A layer whose weight is one of the inputs of the whole."""

    def __init__(self, layer: QuantizedLayer, quantizer: nn.Module | None, given: _Given, number: int) -> None:
        super().__init__(layer, quantizer)
        self.given, self.number = given, number

    def weight(self) -> torch.Tensor:
        return self.given.tensors[self.number]


class _Opened(nn.Module):
    """Takes a module's own inputs, then the weights."""

    def __init__(self, module: nn.Module, given: _Given, inputs: int) -> None:
        super().__init__()
        self.module, self.given, self.inputs = module, given, inputs

    def forward(self, *tensors: torch.Tensor) -> Any:
        self.given.tensors = tensors[self.inputs :]
        return self.module(*tensors[: self.inputs])


class PackedLayer(ExportedLayer):
    """A layer in torch's plain operations that holds its codes packed and decodes them at every pass."""

    def __init__(self, layer: QuantizedLayer, quantizer: nn.Module | None, weight: StoredWeight) -> None:
        super().__init__(layer, quantizer)
        self.bits, self.shape, self.codes_shape = weight.bits, weight.shape, weight.codes.shape
        self.axis, self.axes = weight.axis, tuple(axis for axis, _ in weight.places)
        self.register_buffer("packed", pack(torch.from_numpy(weight.codes), weight.bits))
        self.register_buffer("scale", _smallest(weight.scale))
        self.register_buffer("offset", _smallest(weight.offset))
        self.register_buffer("group", None if weight.group is None else torch.from_numpy(weight.group).int())
        for number, (_, index) in enumerate(weight.places):
            self.register_buffer(f"place_{number}", torch.from_numpy(index).int())

    def weight(self) -> torch.Tensor:
        scale, offset = self.scale.float(), self.offset.float()
        if self.group is not None:
            scale, offset = (table.index_select(self.axis, self.group) for table in (scale, offset))
        codes = unpack(self.packed, self.bits, torch.Size(self.codes_shape).numel())
        weight = codes.reshape(self.codes_shape).float() * scale + offset
        for number, axis in enumerate(self.axes):
            zeros = torch.zeros_like(weight.narrow(axis, 0, 1))
            weight = torch.cat([weight, zeros], axis).index_select(axis, getattr(self, f"place_{number}"))
        return weight.reshape(self.shape)


def packed_module(part: Part, *, integers: bool = True) -> nn.Module:
    """A twin of a part's module in torch's plain operations, its weights as packed codes."""

    def exchange(_: str, layer: QuantizedLayer, weight: StoredWeight) -> nn.Module:
        return PackedLayer(layer, _quantizer(layer, integers), weight)

    return _exchanged(part.module, exchange)


def opened(part: Part, *, integers: bool = True, rounded: bool = True) -> OpenedPart:
    """`part` with an input more for each weight that runs and can be stored as codes. The part itself stays.

    `rounded`: also those of layers whose input is rounded.
    """
    layers = {n: m for n, m in nn.Sequential(part.module).named_modules() if isinstance(m, QuantizedLayer)}
    wanted = {name: layer for name, layer in layers.items() if rounded or layer.input_quantizer is None}
    if not wanted:
        return OpenedPart(part, {})
    given, weights, examples = _Given(), {}, {}
    ran = _those_that_run(part, wanted)

    def exchange(name: str, layer: QuantizedLayer, weight: StoredWeight) -> nn.Module:
        if name not in ran:
            return layer
        key = f"{STEM}{len(weights)}"
        weights[key], examples[key] = weight, layer.weight.cpu()
        return _GivenWeight(layer, _quantizer(layer, integers), given, len(weights) - 1)

    module = _Opened(_exchanged(part.module, exchange), given, len(part.inputs))
    inputs = {name: tensor.cpu() for name, tensor in part.inputs.items()}
    return OpenedPart(replace(part, module=module.eval(), inputs=inputs | examples), weights)


def _quantizer(layer: QuantizedLayer, integers: bool) -> nn.Module | None:
    return static_quantizer(layer.input_quantizer) if integers and layer.input_quantizer is not None else None


def _exchanged(module: nn.Module, exchange: Callable[[str, QuantizedLayer, StoredWeight], nn.Module]) -> nn.Module:
    holder = structural_twin(nn.Sequential(module))
    for name, layer in list(holder.named_modules()):
        if isinstance(layer, QuantizedLayer):
            weight = stored_weight(layer)
            if weight is not None:
                set_module(holder, name, exchange(name, layer, weight))
    return holder[0]


def _those_that_run(part: Part, layers: Mapping[str, nn.Module]) -> set[str]:
    """Names of the layers that one pass calls."""
    ran: set[str] = set()
    hooks = [layer.register_forward_pre_hook(lambda *_, name=name: ran.add(name)) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            part.module(*part.inputs.values())
    finally:
        for hook in hooks:
            hook.remove()
    return ran


def _smallest(values: np.ndarray) -> torch.Tensor:
    """In half precision where that loses nothing."""
    tensor = torch.from_numpy(values)
    return tensor.half() if torch.equal(tensor.half().float(), tensor) else tensor
