"""OpenVINO: the runtime for processors, and for Intel's GPUs and NPUs where they are."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medquant.deploy.cache import CompiledCache, fingerprint
from medquant.deploy.int8_codes import largest_code_here
from medquant.deploy.program import integer_layers, integer_products, rounds_inputs
from medquant.errors import UserError, last_line
from medquant.memory import give_back_memory, lacks_memory

if TYPE_CHECKING:
    from medquant.deploy.runtime import Check
    from medquant.models.base import Part

OLDEST = (2025, 0)
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_PRODUCT = re.compile(r"aten::matmul/MatMul(_\d+)?$")
"""How the converter names a product of two inputs."""
_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}


@dataclass(frozen=True)
class OpenVino:
    """Runs parts by OpenVINO on `device` ("CPU", "GPU", "NPU")."""

    device: str = "CPU"
    name: str = "openvino"

    def version(self) -> str | None:
        """OpenVINO's version; None where it is missing or older than `OLDEST`."""
        try:
            found = metadata.version("openvino")
        except metadata.PackageNotFoundError:
            return None
        return found if tuple(int(n) for n in re.findall(r"\d+", found)[:2]) >= OLDEST else None

    def devices(self) -> list[str]:
        """ "CPU", then what else OpenVINO finds."""
        return [] if self.version() is None else sorted(_core().available_devices, key=lambda name: name != "CPU")

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        """Those that the device computes in by itself."""
        if self.version() is None:
            return ()
        able = _core().get_property(self.device, "OPTIMIZATION_CAPABILITIES")
        floating = tuple(name for name, capability in _CAPABILITIES.items() if capability in able)
        return ("fp32", *floating, "int8")

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
        rest: str | None = None,
    ) -> OpenVinoSession:
        """Compile `part`. `rest`: the floating point of what is not on integers in "int8"; None: the fastest."""
        if self.version() is None:
            wanted = ".".join(str(n) for n in OLDEST)
            raise UserError(f"OpenVINO {wanted} or newer is not installed. Install it with: pip install -U openvino")
        known = self.precisions()
        if precision not in known:
            raise UserError(f"{self.device} does not compute in {precision}. Choose one of {', '.join(known)}.")
        floating = precision
        if precision == "int8":
            floating = rest or next((name for name in ("bf16", "fp16") if name in known), "fp32")
        config = _config(_HINTS[floating], threads)
        integers = precision == "int8" and rounds_inputs(part.module)
        store = None if cache is None else CompiledCache(cache)
        shapes = {name: (tuple(t.shape), part.dynamic.get(name, ())) for name, t in part.inputs.items()}
        key = fingerprint(part.module, *_build_and_device(self.device), sorted(config.items()), integers, shapes)
        compiled = None if store is None else self._from(store, key, config)
        known = compiled is not None
        if not known:
            compiled = self._compiled(part, config, integers, exact_norms=floating == "fp32" and not integers)
            give_back_memory()
        wanted = (len(integer_layers(part.module)), integer_products(part.module)) if integers else (0, 0)
        session = OpenVinoSession(compiled, precision, self.device, *wanted)
        if not known and (check is None or check(session)) and store is not None:
            _keep(compiled, store, key)
        give_back_memory()
        return session

    def _from(self, store: CompiledCache, key: str, config: dict[str, Any]) -> Any:
        data = store.read(key)
        if data is None:
            return None
        try:
            return _core().import_model(BytesIO(data), self.device, config)
        except RuntimeError:  # written by another build of the same version, for instance
            store.drop(key)
            return None

    def _compiled(self, part: Part, config: dict[str, Any], integers: bool, *, exact_norms: bool) -> Any:
        from medquant.deploy.openvino_program import openvino_model
        from medquant.deploy.openvino_upsampling import merge_upsampling

        model = openvino_model(part, integers=integers, exact_norms=exact_norms)
        if integers and self.device == "CPU":
            merge_upsampling(model, largest_code_here())
        try:
            return _core().compile_model(model, self.device, config)
        except RuntimeError as error:
            if lacks_memory(error):
                raise MemoryError("compiling") from error
            raise UserError(
                f"OpenVINO cannot compile this model for {self.device} ({last_line(error)}). Use --runtime pytorch."
            ) from error


def _keep(compiled: Any, store: CompiledCache, key: str) -> None:
    """Write a compiled model to the cache; it is ready all the same where the device cannot export it."""
    with suppress(RuntimeError, MemoryError):
        stream = BytesIO()
        compiled.export_model(stream)
        store.write(key, stream.getvalue())


def compiled_file(path: Path, *, threads: int | None = None) -> Any:
    """A model file of OpenVINO's compiled for the processor, with the fastest floating point outside integers."""
    hint = "bf16" if "bf16" in OpenVino().precisions() else "fp32"
    return _core().compile_model(path, "CPU", _config(_HINTS[hint], threads))


class OpenVinoSession:
    """A model compiled by OpenVINO."""

    runtime = "openvino"

    def __init__(self, compiled: Any, precision: str, device: str, wanted: int, products: int = 0) -> None:
        self.precision, self.device = precision, device
        self.quantized_layers, self.quantized_products = wanted, products
        """How many layers, and products of attention, were to run on integers."""
        primitives, found = _computing(compiled)
        self.integer_layers, self.layers = sum(map(_on_integers, primitives)), len(primitives)
        """How many layers of the compiled graph do, and how many it has."""
        self.integer_products = min(found, products)
        self.simulated = precision == "int8" and self.integer_layers < wanted
        self._compiled, self._request = compiled, compiled.create_infer_request()
        self._outputs = len(compiled.outputs)
        self._shapes = {
            index: tuple(port.get_shape())
            for index, port in enumerate(compiled.outputs)
            if port.get_partial_shape().is_static and port.get_element_type().get_type_name() == "f32"
        }
        self._lock = threading.Lock()

    def release(self) -> None:
        """The buffers of a pass; the compiled model stays."""
        with self._lock:
            self._request = None
            if hasattr(self._compiled, "release_memory"):
                self._compiled.release_memory()
        give_back_memory()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run once; the outputs are float32 tensors of their own."""
        import openvino

        arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in inputs]
        # Outputs of a known size are written where they stay; the request's own would have to be copied.
        own = {index: torch.empty(shape) for index, shape in self._shapes.items()}
        with self._lock:
            try:
                self._request = self._request or self._compiled.create_infer_request()
                for index, tensor in own.items():
                    self._request.set_output_tensor(index, openvino.Tensor(tensor.numpy(), shared_memory=True))
                found = self._request.infer(dict(enumerate(arrays)), share_inputs=True, share_outputs=True)
            except RuntimeError as error:
                if lacks_memory(error):
                    raise MemoryError("running the model") from error
                raise UserError(f"OpenVINO failed ({last_line(error)}). Use --runtime pytorch.") from error
            outputs = tuple(
                own[index] if index in own else torch.from_numpy(found[index].copy()) for index in range(self._outputs)
            )
        return outputs[0] if len(outputs) == 1 else outputs


def _on_integers(primitive: str) -> bool:
    return primitive.endswith(("_i8", "_u8"))


def _computing(compiled: Any) -> tuple[list[str], int]:
    """What computes each convolution, transposed convolution and linear layer of the compiled graph:
    "brgconv_avx512_amx_i8", "jit_gemm_bf16" ... And how many products of two inputs are computed on integers.
    """
    kinds = ("Convolution", "Deconvolution", "FullyConnected")
    layers, products = [], 0
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        wanted = ("layerType", "primitiveType", "originalLayersNames")
        kind, primitive, origin = (info[key].astype(str) if key in info else "" for key in wanted)
        if kind in kinds:
            layers.append(primitive.lower())
        elif _on_integers(primitive.lower()):  # of attention fused into one node both products
            products += sum(_PRODUCT.search(name) is not None for name in origin.split(","))
    return layers, products


def _build_and_device(device: str) -> tuple[str, str]:
    """Compiled models belong to one build of OpenVINO and one kind of device; nothing tells when others read them."""
    import openvino

    return openvino.__version__, f"{device} {_core().get_property(device, 'FULL_DEVICE_NAME')}"


def _config(hint: str, threads: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


_CORE: list[Any] = []


def _core() -> Any:
    """One OpenVINO core for the process; making it loads the plug-ins."""
    if not _CORE:
        import openvino

        _CORE.append(openvino.Core())
    return _CORE[0]
