"""ONNX: Q/DQ with int8 weights, or weights in 2- and 4-bit constants."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medquant.deploy.export.formats import PartFile, Run, Settings, how_stored
from medquant.deploy.export.int8_weights import notes_on_int8
from medquant.deploy.export.opened import opened
from medquant.deploy.export.stored_weight import StoredWeight, exact_half, packed_codes
from medquant.deploy.onnx_program import LEAST_OPSET, onnx_model
from medquant.deploy.program import integer_layers, rounds_inputs
from medquant.deploy.runtime import RUNTIMES
from medquant.errors import UserError, first_line
from medquant.models.base import Model, Part
from medquant.quantized_model import QuantizedModel

OPSET_OF_BITS = {8: 13, 4: 21, 2: 25}
"""The first opset with integers of so many bits."""
_EXPORTED_OPSET = 20
"""The newest that PyTorch writes; later ones only added types to the operators that are used."""
_IR_OF_OPSET = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}


class OnnxFormat:
    """`.onnx` files, run by onnxruntime."""

    name = "onnx"
    title = "ONNX models"
    packages = "onnxruntime"

    def version(self) -> str:
        """onnxruntime's version."""
        found = RUNTIMES["onnxruntime"].version()
        if found is None:
            raise UserError(
                "The format onnx is written and verified by onnx and onnxruntime, which are not installed. "
                "Install them with: pip install onnx onnxruntime"
            )
        return found

    def reference(self, part: Part) -> Part:
        """The part itself."""
        return part

    def write(self, model: Model | QuantizedModel, name: str, part: Part, folder: Path, settings: Settings) -> PartFile:
        """Write `name`.onnx."""
        packs = settings.packs(part)
        made, bits, notes = with_codes(part, settings.opset, packs=packs)
        on_integers = "" if packs or not integer_layers(part.module) else "int8 with Q/DQ"
        notes += () if packs else notes_on_int8(part, any_processor=settings.any_processor)
        halve(made)
        file = f"{name}.onnx"
        (folder / file).write_bytes(made.SerializeToString())
        opset = made.opset_import[0].version
        return PartFile(file, f"{how_stored(on_integers, bits)}, opset {opset}", notes)

    def runner(self, path: Path, part: Part) -> Run:
        """Run by onnxruntime on the processor."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            reason = first_line(error)
            raise UserError(
                f"onnxruntime cannot load the export ({reason}). Try another --opset or --storage."
            ) from error
        return lambda values: tuple(session.run(None, {key: values[key] for key in part.inputs}))


def with_codes(part: Part, opset: int | None, *, packs: bool) -> tuple[Any, set[int], tuple[str, ...]]:
    """A part with weights as constants of codes; bits that a code takes; what had to give way for an older opset.

    `packs`: all weights are. Else only those whose inputs are not rounded: the others are int8, for integer kernels.
    """
    integers = rounds_inputs(part.module)
    ready = opened(part, integers=integers, rounded=packs)
    if opset is None:
        opset = LEAST_OPSET
        if packs:
            fewest = min((weight.bits for weight in ready.weights.values()), default=8)
            fitting = [bits for bits in OPSET_OF_BITS if bits >= fewest and loads(bits)]
            opset = max(opset, OPSET_OF_BITS[min(fitting)])
    made = onnx_model(ready.part, integers=integers, opset=min(opset, _EXPORTED_OPSET))
    nodes: list[Any] = []
    for name, weight in ready.weights.items():
        nodes += _decoding(made.graph, name, weight, _stored(weight.bits, opset))
    own = [value for value in made.graph.input if value.name not in ready.weights]
    graph_nodes = list(made.graph.node)
    del made.graph.input[:], made.graph.node[:]
    made.graph.input.extend(own)
    made.graph.node.extend(nodes + graph_nodes)
    _declare(made, opset)
    bits = {_stored(weight.bits, opset) for weight in ready.weights.values()}
    widened = {weight.bits for weight in ready.weights.values() if weight.bits < _stored(weight.bits, opset)}
    notes = ()
    if widened:
        notes = (
            f"ONNX opset {opset} has no integers of {', '.join(str(b) for b in sorted(widened))} bits: such codes take "
            f"the next size it has. The quantized model's own file (--format artifact) is smaller.",
        )
    return made, bits, notes


@cache
def loads(bits: int) -> bool:
    """Whether the onnx and onnxruntime that are installed know integers of so many bits, with the opset they need."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    if bits == max(OPSET_OF_BITS):
        return True
    kind = getattr(TensorProto, f"UINT{bits}", None)
    if kind is None or onnx.defs.onnx_opset_version() < OPSET_OF_BITS[bits]:
        return False
    codes = helper.make_tensor("codes", kind, [4], bytes(1 if bits == 2 else 2), raw=True)
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
    node = helper.make_node("DequantizeLinear", ["codes", "scale"], ["values"])
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, [4])
    graph = helper.make_graph([node], "probe", [], [values], [codes, scale])
    opset = OPSET_OF_BITS[bits]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_OF_OPSET[opset])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its errors have no common class
        return False
    return True


def _stored(bits: int, opset: int | None) -> int:
    """Bits that a code takes in the file, with the integers that the opset has."""
    able = [size for size, first in OPSET_OF_BITS.items() if opset is None or opset >= first]
    return min(size for size in able if size >= bits)


def _declare(model: Any, opset: int) -> None:
    """Say which opset the model is of, where that is newer than what was exported."""
    if opset > model.opset_import[0].version:
        model.opset_import[0].version = opset
        model.ir_version = max(model.ir_version, _IR_OF_OPSET.get(opset, 10))


def _decoding(graph: Any, name: str, weight: StoredWeight, bits: int) -> list[Any]:
    """Nodes whose last output is `name`: the weight from its codes. The constants are added to `graph`."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    kind = {2: "UINT2", 4: "UINT4", 8: "UINT8"}[bits]

    def constant(label: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), f"{name}.{label}"))
        return f"{name}.{label}"

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [f"{name}.{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    raw = packed_codes(weight.codes, bits)
    graph.initializer.append(
        helper.make_tensor(f"{name}.codes", getattr(TensorProto, kind), weight.codes.shape, raw, raw=True)
    )
    axis = weight.single_axis
    if axis is not None and weight.codes.shape[axis] == weight.scale.shape[axis]:
        found = node("DequantizeLinear", f"{name}.codes", constant("scale", weight.scale.reshape(-1)), axis=axis)
        tables = {"Add": weight.offset}
    else:
        found = node("DequantizeLinear", f"{name}.codes", constant("one", np.float32(1)))
        tables = {"Mul": weight.scale, "Add": weight.offset}
    for operator, table in tables.items():
        values = constant(operator, table)
        if weight.group is not None:
            values = node("Gather", values, constant(f"{operator}.group", weight.group), axis=weight.axis)
        found = node(operator, found, values)
    shape = list(weight.codes.shape)
    for axis, index in weight.places:
        zeros = constant(f"zeros_{axis}", np.zeros([1 if a == axis else n for a, n in enumerate(shape)], np.float32))
        joined = node("Concat", found, zeros, axis=axis)
        found = node("Gather", joined, constant(f"place_{axis}", index), axis=axis)
        shape[axis] = len(index)
    node("Reshape", found, constant("shape", np.array(weight.shape, np.int64)))
    nodes[-1].output[0] = name
    return nodes


def halve(model: Any) -> None:
    """Store large constants in half precision where that loses nothing, as the quantized model's file does."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        half = exact_half(numpy_helper.to_array(tensor))
        if half is not None:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
