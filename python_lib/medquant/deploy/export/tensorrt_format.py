"""TensorRT: an engine where it can be built here, and in any case its ONNX and the command that builds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medquant.activations import ActivationQuantizer
from medquant.deploy.export.formats import PartFile, Run, Settings
from medquant.deploy.export.int8_weights import notes_on_int8
from medquant.deploy.export.onnx_format import OnnxFormat, halve
from medquant.deploy.onnx_program import onnx_model
from medquant.deploy.program import decoded_program, integer_layers, rounds_inputs
from medquant.deploy.runtime import RUNTIMES
from medquant.deploy.tensorrt_runtime import MOST_BOXES, build_engine
from medquant.errors import UserError
from medquant.models.base import Model, Part
from medquant.quantized_model import QuantizedModel

COMMANDS = "build_engines.sh"
_NOT_AROUND_ZERO = (
    "TensorRT takes integers only on static grids around zero with one scale, which this model does not have "
    'throughout. For INT8, quantize with "symmetric": true for the activations of the recipe.'
)


class TensorRtFormat:
    """`.onnx` files that TensorRT reads, `build_engines.sh`, and `.engine` files where there is an NVIDIA GPU."""

    name = "tensorrt"
    title = "models for NVIDIA TensorRT"
    packages = "tensorrt torch"

    def version(self) -> str:
        """TensorRT's version, or what there is instead: the ONNX is verified by onnxruntime in any case."""
        onnx = OnnxFormat().version()
        found = RUNTIMES["tensorrt"].version()
        return f"{found}, ONNX verified by onnxruntime {onnx}" if found else f"not here; ONNX verified by {onnx}"

    def reference(self, part: Part) -> Part:
        """The part, without rounded inputs where TensorRT cannot have them on integers."""
        if _on_integers(part):
            return part
        return replace(part, module=decoded_program(part.module, integers=False))

    def write(self, model: Model | QuantizedModel, name: str, part: Part, folder: Path, settings: Settings) -> PartFile:
        """Write `name`.onnx, the command for it, and `name`.engine where TensorRT is."""
        if settings.storage == "packed":
            raise UserError(
                "TensorRT has no convolutions with weights of 2 to 4 bits. Leave --storage out, or use another."
            )
        integers = _on_integers(part)
        if settings.storage == "int8" and not integers:
            raise UserError(f"{_NOT_AROUND_ZERO} Leave --storage out for half precision, or do that.")
        notes = []
        network = model.model if isinstance(model, QuantizedModel) else model
        if not integers and rounds_inputs(network.network):
            notes.append(f"The engine computes in half precision. {_NOT_AROUND_ZERO}")
        if integers:
            notes += notes_on_int8(part, any_processor=settings.any_processor, for_gpu=True)
        made = onnx_model(part, integers=integers)
        halve(made)
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString())
        with (folder / COMMANDS).open("a", encoding="utf-8", newline="\n") as commands:
            commands.write(command(name, part, integers=integers) + "\n")
        if RUNTIMES["tensorrt"].version() is None:
            notes.append(
                f"No engine was built: there is no TensorRT on this machine. Run {COMMANDS} on one that has it."
            )
        else:
            engine = build_engine(part, "int8" if integers else "fp16", integers)
            (folder / f"{name}.engine").write_bytes(engine)
        return PartFile(f"{name}.onnx", "int8 with Q/DQ" if integers else "floating point", tuple(notes))

    def runner(self, path: Path, part: Part) -> Run:
        """The ONNX, run by onnxruntime."""
        return OnnxFormat().runner(path, part)


def _on_integers(part: Part) -> bool:
    quantizers = [module for module in part.module.modules() if isinstance(module, ActivationQuantizer)]
    able = (q.symmetric and q.mode == "static" and q.has_integer_kernel for q in quantizers)
    return bool(integer_layers(part.module)) and all(able)


def command(name: str, part: Part, *, integers: bool) -> str:
    """The command that builds the engine of a part, on a machine with TensorRT."""
    words = [f"trtexec --onnx={name}.onnx --saveEngine={name}.engine --fp16", *(["--int8"] if integers else [])]
    for option, size in (("min", 1), ("opt", 4), ("max", MOST_BOXES)):
        shapes = [
            f"{key}:" + "x".join(str(size if axis in part.dynamic[key] else n) for axis, n in enumerate(tensor.shape))
            for key, tensor in part.inputs.items()
            if key in part.dynamic
        ]
        if shapes:
            words.append(f"--{option}Shapes={','.join(shapes)}")
    return " ".join(words)
