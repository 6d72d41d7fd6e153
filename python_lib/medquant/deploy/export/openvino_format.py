"""OpenVINO IR: FakeQuantize with int8 weights, or weights in 2- and 4-bit constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medquant.deploy.export.formats import PartFile, Run, Settings, how_stored
from medquant.deploy.export.int8_weights import notes_on_int8
from medquant.deploy.export.opened import opened
from medquant.deploy.export.stored_weight import StoredWeight, exact_half, packed_codes
from medquant.deploy.openvino_program import openvino_model
from medquant.deploy.program import integer_layers, rounds_inputs
from medquant.deploy.runtime import RUNTIMES
from medquant.errors import UserError, last_line
from medquant.models.base import Model, Part
from medquant.quantized_model import QuantizedModel

AS_VERIFIED = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""FP32 where integers are not written; without it OpenVINO takes bf16 where it can, and integers of its own making."""


class OpenVinoFormat:
    """`.xml` and `.bin` files, run by OpenVINO on the processor."""

    name = "openvino"
    title = "OpenVINO IR models (each an .xml with its .bin)"
    packages = "openvino"

    def version(self) -> str:
        """OpenVINO's version."""
        found = RUNTIMES["openvino"].version()
        if found is None:
            raise UserError(
                "The format openvino needs OpenVINO 2025 or newer, which is not installed. "
                "Install it with: pip install -U openvino"
            )
        return found

    def reference(self, part: Part) -> Part:
        """The part itself."""
        return part

    def write(self, model: Model | QuantizedModel, name: str, part: Part, folder: Path, settings: Settings) -> PartFile:
        """Write `name`.xml and `name`.bin."""
        import openvino

        integers, packs = rounds_inputs(part.module), settings.packs(part)
        # On integers the program widens codes to int8; weights of layers that are not keep their own codes.
        ready = opened(part, integers=integers, rounded=packs)
        made = openvino_model(ready.part, integers=integers, exact_norms=not integers)
        for parameter in list(made.get_parameters()):
            weight = ready.weights.get(parameter.output(0).get_any_name())
            if weight is not None:
                parameter.output(0).replace(_decoded(weight).output(0))
                made.remove_parameter(parameter)
        made.validate_nodes_and_infer_types()
        bits = {_stored(weight.bits) for weight in ready.weights.values()}
        on_integers = "" if packs or not integer_layers(part.module) else "int8 with FakeQuantize"
        notes = () if packs else notes_on_int8(part, any_processor=settings.any_processor)
        if any(weight.bits == 3 for weight in ready.weights.values()):
            notes += ("Codes of 3 bits take 4 here. The quantized model's own file (--format artifact) is smaller.",)
        _halve(made)
        file = f"{name}.xml"
        try:
            openvino.save_model(made, folder / file, compress_to_fp16=False)
        except RuntimeError as error:
            raise OSError(last_line(error)) from error
        return PartFile(file, how_stored(on_integers, bits), notes)

    def runner(self, path: Path, part: Part) -> Run:
        """Run by OpenVINO on the processor, in FP32 where integers are not written."""
        import openvino

        try:
            compiled = openvino.Core().compile_model(path, "CPU", AS_VERIFIED)
        except RuntimeError as error:
            reason = last_line(error)
            raise UserError(f"OpenVINO cannot load the export ({reason}). Try another --storage.") from error

        def run(values: Any) -> tuple[np.ndarray, ...]:
            found = compiled({key: values[key] for key in part.inputs})
            return tuple(found[index].copy() for index in range(len(part.outputs)))

        return run


def _stored(bits: int) -> int:
    return next(size for size in (2, 4, 8) if size >= bits)


def _decoded(weight: StoredWeight) -> Any:
    """The weight from constants: for matrix products the pattern that OpenVINO keeps compressed; others it folds."""
    import openvino
    from openvino import opset13 as ops

    bits = _stored(weight.bits)
    packed = np.frombuffer(packed_codes(weight.codes, bits), np.uint8)
    kind = {2: openvino.Type.u2, 4: openvino.Type.u4, 8: openvino.Type.u8}[bits]
    tensor = openvino.Tensor(packed, openvino.Shape(list(weight.codes.shape)), kind)
    codes = openvino.op.Constant(tensor, shared_memory=False)  # the bytes go with this function
    scale, offset = weight.scale, weight.offset
    if weight.group is None and weight.codes.shape == weight.shape and not weight.places and (scale != 0).all():
        zero = ops.constant((-offset / scale).astype(np.float32))
        found = ops.multiply(ops.subtract(ops.convert(codes, "f32"), zero), ops.constant(scale))
    else:
        tables = [ops.constant(table) for table in (scale, offset)]
        if weight.group is not None:
            tables = [ops.gather(table, ops.constant(weight.group), ops.constant(weight.axis)) for table in tables]
        found = ops.add(ops.multiply(ops.convert(codes, "f32"), tables[0]), tables[1])
    shape = list(weight.codes.shape)
    for axis, index in weight.places:
        zeros = np.zeros([1 if a == axis else n for a, n in enumerate(shape)], np.float32)
        joined = ops.concat([found, ops.constant(zeros)], axis)
        found = ops.gather(joined, ops.constant(index), ops.constant(axis))
        shape[axis] = len(index)
    if tuple(shape) == weight.shape:
        return found
    return ops.reshape(found, ops.constant(np.array(weight.shape, np.int64)), False)


def _halve(model: Any) -> None:
    """Store large constants in half precision where that loses nothing, as the quantized model's file does."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
            continue
        half = exact_half(node.data)
        if half is not None:
            readers = list(node.output(0).get_target_inputs())
            whole = ops.convert(ops.constant(half), "f32")
            for reader in readers:
                reader.replace_source_output(whole.output(0))
