"""A part of a model as an OpenVINO model, converted from PyTorch without a file in between."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from medquant.deploy.openvino_joins import round_before_joins
from medquant.deploy.program import integer_program
from medquant.errors import UserError, last_line
from medquant.memory import lacks_memory

if TYPE_CHECKING:
    from medquant.models.base import Part


def openvino_model(part: Part, *, integers: bool = True, exact_norms: bool = False) -> Any:
    """`openvino.Model` of a part, with its inputs' and outputs' names and the axes that may vary.

    With `integers`, quantized layers are FakeQuantize and int8 weights, which OpenVINO turns into integer kernels.
    `exact_norms`: for computing in FP32; in shorter floating point OpenVINO's own norms keep their sums in FP32.
    Raises `UserError` where an operator cannot be converted.
    """
    module = integer_program(part.module, integers=integers, exact_norms=exact_norms).eval()
    try:
        try:
            model = _named(_traced(module, part), part)
        except Exception as error:
            if part.dynamic or lacks_memory(error):
                raise
            model = _named(_exported(module, part), part)
        if integers:
            round_before_joins(model)
    except Exception as error:
        if lacks_memory(error):
            raise MemoryError("converting") from error
        raise UserError(f"OpenVINO cannot convert this model ({last_line(error)}). Use --runtime pytorch.") from error
    return model


def _traced(module: torch.nn.Module, part: Part) -> Any:
    """Converted as traced once here: the converter itself would run the module several times."""
    import openvino

    examples = tuple(part.inputs.values())
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, examples, strict=False, check_trace=False)
        return openvino.convert_model(traced, example_input=examples)


def _exported(module: torch.nn.Module, part: Part) -> Any:
    """Converted by way of `torch.export`, which takes longer: sizes are numbers there, whatever is computed from them.

    The trace computes them anew, and of shifted windows that are padded (SwinUNETR) OpenVINO gets them wrong.
    """
    import openvino

    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return openvino.convert_model(torch.export.export(module, tuple(part.inputs.values()), strict=False))


def _named(model: Any, part: Part) -> Any:
    """The model with the part's names, shapes and axes that may vary. Raises where the shapes do not fit."""
    import openvino

    shapes = {}
    for port, (name, example) in zip(model.inputs, part.inputs.items(), strict=True):
        free = part.dynamic.get(name, ())
        shapes[port] = [-1 if axis in free else size for axis, size in enumerate(example.shape)]
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, part.outputs, strict=True):
        port.get_tensor().set_names({name})
    model.reshape({port: openvino.PartialShape(shape) for port, shape in shapes.items()})
    return model
