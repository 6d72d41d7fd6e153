"""onnxruntime: for machines where nothing faster is installed."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medquant.deploy.cache import CompiledCache, fingerprint
from medquant.deploy.int8_codes import largest_code_here
from medquant.deploy.program import integer_layers, integer_products, rounds_inputs
from medquant.errors import UserError, first_line
from medquant.memory import lacks_memory

if TYPE_CHECKING:
    from medquant.deploy.runtime import Check
    from medquant.models.base import Part

_PROVIDERS = {"CUDAExecutionProvider": "cuda", "CoreMLExecutionProvider": "coreml", "CPUExecutionProvider": "cpu"}
_SECOND_FACTOR = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3),
    **dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "ConvInteger", "DynamicQuantizeMatMul"), 1),
}
"""Operators on integers, and which input is the weight of a layer, or the second factor of a product."""
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")


@dataclass(frozen=True)
class OnnxRuntime:
    """Runs parts by onnxruntime."""

    name: str = "onnxruntime"

    def version(self) -> str | None:
        """onnxruntime's version; None where it, or onnx, is missing."""
        found = {}
        for package in (*_PACKAGES, "onnx"):
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return next((found[package] for package in _PACKAGES if package in found), None) if "onnx" in found else None

    def devices(self) -> list[str]:
        """ "cuda", "coreml" or "cpu", as its execution providers are."""
        if self.version() is None:
            return []
        import onnxruntime

        return [_PROVIDERS[name] for name in onnxruntime.get_available_providers() if name in _PROVIDERS]

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        """FP32 and integers."""
        return () if self.version() is None else ("fp32", "int8")

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> OnnxSession:
        """Export the part, or read the exported one from the cache, and let onnxruntime optimise it."""
        if self.version() is None:
            raise UserError("onnxruntime is not installed. Install it with: pip install onnx onnxruntime")
        if precision not in self.precisions():
            able = ", ".join(self.precisions())
            raise UserError(f"onnxruntime does not compute in {precision} here. Choose one of {able}.")
        integers = precision == "int8" and rounds_inputs(part.module)
        store = None if cache is None else CompiledCache(cache)
        shapes = {name: (tuple(t.shape), part.dynamic.get(name, ())) for name, t in part.inputs.items()}
        key = fingerprint(part.module, "onnx", self.version(), integers, largest_code_here(), shapes)
        wanted = (len(integer_layers(part.module)), integer_products(part.module)) if integers else (0, 0)
        started = None if store is None else self._from(store, key, threads, integers)
        if started is not None:
            return OnnxSession(*started, part, precision, self.devices()[0], *wanted)
        data = _exported(part, integers)
        session = OnnxSession(*_started(data, threads, integers), part, precision, self.devices()[0], *wanted)
        if (check is None or check(session)) and store is not None:
            store.write(key, data)
        return session

    def _from(
        self, store: CompiledCache, key: str, threads: int | None, integers: bool
    ) -> tuple[Any, tuple[int, int]] | None:
        data = store.read(key)
        if data is None:
            return None
        try:
            return _started(data, threads, integers)
        except UserError:
            store.drop(key)
            return None


def _exported(part: Part, integers: bool) -> bytes:
    from medquant.deploy.onnx_program import onnx_model

    return onnx_model(part, integers=integers).SerializeToString()


def _started(data: bytes, threads: int | None, integers: bool) -> tuple[Any, tuple[int, int]]:
    """A session, and how many layers and products of its optimised graph are on integers (0 where none should be)."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        if integers:
            options.optimized_model_filepath = str(optimised)
        try:
            session = onnxruntime.InferenceSession(data, options, providers=onnxruntime.get_available_providers())
        except Exception as error:  # its errors have no common class
            reason = first_line(error)
            raise UserError(f"onnxruntime cannot load this model ({reason}). Use --runtime pytorch.") from error
        counted = _on_integers(onnx.load(optimised).graph) if integers else (0, 0)
    return session, counted


def _on_integers(graph: Any) -> tuple[int, int]:
    """How many layers are computed on integers, and how many products of two inputs."""
    constants = {tensor.name for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in _SECOND_FACTOR]
    layers = sum(node.input[_SECOND_FACTOR[node.op_type]] in constants for node in nodes)
    return layers, len(nodes) - layers


class OnnxSession:
    """A model loaded by onnxruntime."""

    runtime = "onnxruntime"

    def __init__(
        self,
        session: Any,
        on_integers: tuple[int, int],
        part: Part,
        precision: str,
        device: str,
        wanted: int,
        products: int,
    ) -> None:
        self.precision, self.device = precision, device
        self.quantized_layers, self.integer_layers = wanted, on_integers[0]
        """How many layers were to run on integers, and how many of the optimised graph do."""
        self.quantized_products, self.integer_products = products, min(products, on_integers[1])
        self._session, self._inputs = session, tuple(part.inputs)
        self._lock = threading.Lock()
        self.simulated = self.integer_layers < wanted

    def release(self) -> None:
        """Nothing: onnxruntime keeps what it has taken until the session ends."""

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run once; the outputs are float32 tensors of their own."""
        arrays = (tensor.detach().cpu().contiguous().numpy() for tensor in inputs)
        with self._lock:
            try:
                found = self._session.run(None, dict(zip(self._inputs, arrays, strict=True)))
            except Exception as error:  # its errors have no common class
                if lacks_memory(error):
                    raise MemoryError("running the model") from error
                reason = first_line(error)
                raise UserError(f"onnxruntime failed ({reason}). Use --runtime pytorch.") from error
        outputs = tuple(torch.from_numpy(array).float() for array in found)
        return outputs[0] if len(outputs) == 1 else outputs
