"""A part of a model as an ONNX model, quantized layers between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch

from medquant.deploy.program import integer_program
from medquant.errors import UserError, first_line

if TYPE_CHECKING:
    from medquant.models.base import Part

LEAST_OPSET = 17


def onnx_model(part: Part, *, integers: bool = True, opset: int = LEAST_OPSET) -> Any:
    """`onnx.ModelProto` of a part, with its inputs' and outputs' names and the axes that may vary.

    With `integers`, the inputs of quantized layers are rounded and their weights are int8. Raises `UserError` where an
    operator has no form in ONNX.
    """
    import onnx

    if opset < LEAST_OPSET:
        raise UserError(f"ONNX opset {opset} is too old. Choose {LEAST_OPSET} or newer.")
    module = integer_program(part.module, dialect="onnx", integers=integers).eval()
    axes = {name: {axis: f"{name}_{axis}" for axis in free} for name, free in part.dynamic.items()}
    if axes:  # what varies at the inputs varies at the outputs; the names of those axes are the exporter's own
        axes |= {name: {0: f"{name}_0", 1: f"{name}_1"} for name in part.outputs}
    stream = BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tuple(part.inputs.values()),
                stream,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                dynamic_axes=axes or None,
                opset_version=opset,
                dynamo=False,
            )
    except Exception as error:  # the exporter raises whatever it meets
        raise UserError(f"This model has no form in ONNX ({first_line(error)}). Use another format.") from error
    return onnx.load_from_string(stream.getvalue())
