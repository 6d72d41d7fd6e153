"""TensorRT, NVIDIA's runtime: engines built from the ONNX form of a part."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medquant.deploy.cache import CompiledCache, fingerprint
from medquant.deploy.program import integer_layers, rounds_inputs
from medquant.errors import UserError
from medquant.memory import give_back_memory

if TYPE_CHECKING:
    from medquant.deploy.runtime import Check
    from medquant.models.base import Part

MOST_BOXES = 16
"""The largest size for which an axis that may vary is optimised."""


@dataclass(frozen=True)
class TensorRT:
    """Runs parts by TensorRT on the first NVIDIA GPU."""

    name: str = "tensorrt"

    def version(self) -> str | None:
        """TensorRT's version; None where it is missing or there is no NVIDIA GPU for it."""
        if util.find_spec("tensorrt") is None or not torch.cuda.is_available():
            return None
        try:
            import tensorrt
        except (ImportError, OSError):  # the package is there, its libraries are not
            return None
        return tensorrt.__version__

    def devices(self) -> list[str]:
        """ "cuda" where TensorRT can be used."""
        return [] if self.version() is None else ["cuda"]

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        """All that the tensor cores of the GPU compute in."""
        if self.version() is None:
            return ()
        return ("fp32", *(("bf16",) if torch.cuda.is_bf16_supported() else ()), "fp16", "int8")

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> TensorRtSession:
        """Build the engine, which takes minutes, or read it from the cache."""
        if self.version() is None:
            raise UserError("TensorRT needs an NVIDIA GPU and its own package. Install it with: pip install tensorrt")
        if precision not in self.precisions():
            able = ", ".join(self.precisions())
            raise UserError(f"This GPU does not compute in {precision}. Choose one of {able}.")
        integers = precision == "int8" and rounds_inputs(part.module)
        store = None if cache is None else CompiledCache(cache)
        shapes = {name: (tuple(t.shape), part.dynamic.get(name, ())) for name, t in part.inputs.items()}
        gpu = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        key = fingerprint(part.module, self.version(), gpu, precision, integers, shapes)
        plan = None if store is None else store.read(key)
        session = None if plan is None else _session(plan, part, precision, integers)
        if session is None:
            plan = build_engine(part, precision, integers)
            session = _session(plan, part, precision, integers)
            if session is None:
                raise UserError("TensorRT cannot load the engine that it built. Use --runtime pytorch.")
            if (check is None or check(session)) and store is not None:
                store.write(key, plan)
        return session


def build_engine(part: Part, precision: str, integers: bool) -> bytes:
    """The serialized engine of a part for this GPU. Raises `UserError` where TensorRT cannot build it."""
    import tensorrt as trt

    from medquant.deploy.onnx_program import onnx_model

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_model(part, integers=integers).SerializeToString()):
        raise UserError(f"TensorRT cannot read this model ({parser.get_error(0).desc()}). Use --runtime pytorch.")
    config = builder.create_builder_config()
    flags = {"bf16": ["BF16"], "fp16": ["FP16"], "int8": ["INT8", "FP16"], "fp32": []}[precision]
    for flag in flags:
        if hasattr(trt.BuilderFlag, flag):  # networks are strongly typed in the newest versions
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if part.dynamic:
        profile = builder.create_optimization_profile()
        for name, tensor in part.inputs.items():
            free = part.dynamic.get(name, ())
            sizes = [[limit if a in free else s for a, s in enumerate(tensor.shape)] for limit in (1, 4, MOST_BOXES)]
            profile.set_shape(name, *sizes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"TensorRT cannot build this model in {precision}. Use --runtime pytorch.")
    return bytes(plan)


def _session(plan: bytes, part: Part, precision: str, integers: bool) -> TensorRtSession | None:
    import tensorrt as trt

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    return None if engine is None else TensorRtSession(engine, part, precision, integers)


class TensorRtSession:
    """An engine of TensorRT."""

    runtime = "tensorrt"
    device = "cuda"

    def __init__(self, engine: Any, part: Part, precision: str, integers: bool) -> None:
        self.precision = precision
        self.simulated = integers and not integer_layers(part.module)
        self._inputs, self._outputs = tuple(part.inputs), part.outputs
        self._engine, self._context = engine, engine.create_execution_context()
        self._lock = threading.Lock()

    def release(self) -> None:
        """What PyTorch keeps for further passes."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_memory()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run once; the outputs are float32 on the processor."""
        with self._lock:
            try:
                return self._run([tensor.to("cuda").contiguous() for tensor in inputs])
            except torch.cuda.OutOfMemoryError as error:
                raise MemoryError("running the model") from error

    def _run(self, inputs: list[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, ...]:
        for name, tensor in zip(self._inputs, inputs, strict=True):
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        outputs = []
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs.append(torch.empty(shape, dtype=torch.float32, device="cuda"))
            self._context.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise UserError("TensorRT failed to run the model. Use --runtime pytorch.")
        stream.synchronize()
        found = tuple(tensor.cpu() for tensor in outputs)
        return found[0] if len(found) == 1 else found
