"""PyTorch: programs of `torch.export`, with the codes packed as in the quantized model's file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.parametrize import register_parametrization

from medquant.deploy.export.formats import PartFile, Run, Settings
from medquant.deploy.export.opened import PackedLayer, packed_module
from medquant.deploy.export.stored_weight import exact_half
from medquant.deploy.program import StaticQuantizer, integer_program, rounds_inputs
from medquant.errors import UserError, first_line
from medquant.models.base import Model, Part
from medquant.packing import STORED_BITS
from medquant.quantized_model import QuantizedModel


class TorchFormat:
    """`.pt2` files, run by PyTorch without the code of the network."""

    name = "torch"
    title = "programs of torch.export (.pt2)"
    packages = "torch"

    def version(self) -> str:
        """PyTorch's version."""
        return torch.__version__

    def reference(self, part: Part) -> Part:
        """The part itself."""
        return part

    def write(self, model: Model | QuantizedModel, name: str, part: Part, folder: Path, settings: Settings) -> PartFile:
        """Write `name`.pt2. Codes are always packed; they are decoded at every pass."""
        if settings.storage == "int8":
            raise UserError("PyTorch's programs keep the codes packed. Leave --storage out, or use onnx or openvino.")
        integers = rounds_inputs(part.module)
        module = _in_plain_arithmetic(integer_program(packed_module(part, integers=integers), integers=integers).eval())
        _halve(module)
        examples = tuple(tensor.cpu() for tensor in part.inputs.values())
        free = {key: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for key, axes in part.dynamic.items()}
        shapes = (tuple(free.get(key, {}) for key in part.inputs),)
        file = f"{name}.pt2"
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(_Positional(module), examples, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # the exporter raises whatever it meets
            raise UserError(
                f"torch.export cannot follow this model ({first_line(error)}). Use another format."
            ) from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names the files of this machine
        program.example_inputs = None
        torch.export.save(program, folder / file)
        bits = {STORED_BITS[layer.bits] for layer in module.modules() if isinstance(layer, PackedLayer)}
        listing = " and ".join(str(size) for size in sorted(bits))
        return PartFile(file, f"packed codes of {listing} bits" if bits else "floating point")

    def runner(self, path: Path, part: Part) -> Run:
        """Run by PyTorch on the processor."""
        module = torch.export.load(path).module()

        def run(values: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
            with torch.inference_mode():
                found = module(*(torch.from_numpy(values[key]) for key in part.inputs))
            return tuple(tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else (found,)))

        return run


class _PlainQuantizer(StaticQuantizer):
    """The same numbers in plain arithmetic: torch's own fake quantization has no form for axes that vary."""

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        codes = ((values * self.steps).round() + self.zero).clamp(self.low, self.high)
        return (codes - self.zero) * self.scale


def _in_plain_arithmetic(module: torch.nn.Module) -> torch.nn.Module:
    for part in module.modules():
        if isinstance(part, StaticQuantizer):
            part.__class__ = _PlainQuantizer
            part.steps = float(1 / torch.tensor(part.scale))  # in float32, as torch does it
    return module


class _Whole(torch.nn.Module):
    """A tensor that is stored in half precision."""

    def forward(self, half: torch.Tensor) -> torch.Tensor:
        return half.float()


def _halve(module: torch.nn.Module) -> None:
    """Store large tensors in half precision where that loses nothing, as the quantized model's file does."""
    for owner in list(module.modules()):
        for key, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
            if tensor.dtype == torch.float32 and exact_half(tensor.detach().numpy()) is not None:
                delattr(owner, key)
                owner.register_buffer(key, tensor.detach().half())
                register_parametrization(owner, key, _Whole(), unsafe=True)


class _Positional(torch.nn.Module):
    """Takes positional tensors only, whatever the module calls them, so that the axes that vary can be named."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.module(*tensors)
