"""The formats of an export, and what each of them has to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from medquant.deploy.program import integer_layers
from medquant.errors import UserError
from medquant.layers import QuantizedLayer
from medquant.models.base import Model, Part
from medquant.quantized_model import QuantizedModel

Storage = Literal["auto", "int8", "packed"]
Run = Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, ...]]
"""Arrays by the names of a part's inputs -> its outputs in order."""

_MODULES = {
    "onnx": ("medquant.deploy.export.onnx_format", "OnnxFormat"),
    "openvino": ("medquant.deploy.export.openvino_format", "OpenVinoFormat"),
    "tensorrt": ("medquant.deploy.export.tensorrt_format", "TensorRtFormat"),
    "torch": ("medquant.deploy.export.torch_format", "TorchFormat"),
    "artifact": ("medquant.deploy.export.artifact_format", "ArtifactFormat"),
}
FORMATS = tuple(_MODULES)


@dataclass(frozen=True)
class Settings:
    """How weights are stored: "int8" for integer kernels, "packed" in as few bits as the format holds; "auto": int8
    where activations are integers too, else packed. `opset`: that of ONNX; None: the oldest that holds the weights,
    among those that the installed onnxruntime loads.
    `any_processor`: int8 weights were rounded to 7 bits."""

    storage: Storage = "auto"
    opset: int | None = None
    any_processor: bool = False

    def packs(self, part: Part) -> bool:
        """Whether a part's weights are stored packed. Raises `UserError` where int8 cannot be."""
        if not any(isinstance(module, QuantizedLayer) for module in part.module.modules()):
            return False
        integers = bool(integer_layers(part.module))
        if self.storage == "int8" and not integers:
            raise UserError(
                "Integer kernels need activations that are integers with one known scale, which this model does not "
                "have. Use --storage packed, or quantize with 8-bit activations."
            )
        return self.storage == "packed" or not integers


@dataclass(frozen=True)
class PartFile:
    """A part as it was written."""

    file: str
    """Name within the folder, the one that the script opens."""
    stored: str
    """How its weights are stored, in words."""
    notes: tuple[str, ...] = ()


class Format(Protocol):
    """One kind of file."""

    name: str
    title: str
    """What it is, for the card."""
    packages: str
    """What the script needs besides Python and numpy, as `pip install` takes it; empty: medquant itself."""

    def version(self) -> str:
        """The version of the runtime. Raises `UserError` with what to install where it is missing."""

    def reference(self, part: Part) -> Part:
        """The part as the export computes it, by the engine: itself, unless the format leaves something out."""

    def write(self, model: Model | QuantizedModel, name: str, part: Part, folder: Path, settings: Settings) -> PartFile:
        """Write one part into `folder`."""

    def runner(self, path: Path, part: Part) -> Run:
        """Load what `write` wrote and run it by the format's own runtime."""


def format_named(name: str) -> Format:
    """The format of that name. Raises `UserError` for an unknown one."""
    if name not in _MODULES:
        raise UserError(f"There is no export format {name!r}. Choose {', '.join(FORMATS)}.")
    module, kind = _MODULES[name]
    return getattr(import_module(module), kind)()


def how_stored(on_integers: str, bits: set[int]) -> str:
    """How weights are stored: "int8 with Q/DQ, packed codes of 2 and 4 bits".

    `on_integers`: how those are that integer kernels take, "" where there are none; `bits`: those of packed codes.
    """
    packed = f"packed codes of {' and '.join(str(b) for b in sorted(bits))} bits" if bits else ""
    return ", ".join(filter(None, (on_integers, packed))) or "floating point"
