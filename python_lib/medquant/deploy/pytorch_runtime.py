"""PyTorch itself: runs everywhere, in lower precision where the processor has it; integers are simulated."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from medquant.deploy.program import decoded_program, rounds_inputs
from medquant.errors import UserError, first_line
from medquant.memory import give_back_memory, lacks_memory

if TYPE_CHECKING:
    from medquant.deploy.runtime import Check
    from medquant.models.base import Part

_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of `torch.cpu.get_capabilities` that mean instructions for bf16."""
_LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class PyTorch:
    """Runs parts by PyTorch, where their tensors lie: on the processor, or on the GPU that the model was loaded to.

    `fused`: let `torch.compile` fuse operations. It takes a C++ compiler and up to minutes for every process, so it is
    for those who serve many scans, and never chosen by itself.
    """

    fused: bool = False

    @property
    def name(self) -> str:
        """ "pytorch" or "pytorch-compiled"."""
        return "pytorch-compiled" if self.fused else "pytorch"

    def version(self) -> str | None:
        """PyTorch's version; None where a compiler is needed and there is none."""
        return torch.__version__ if not self.fused or _compiler() else None

    def devices(self) -> list[str]:
        """ "cuda" or "mps" where they are, then "cpu"."""
        found = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True)]
        return [name for name, here in found if here]

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        """ "int8" is simulated, and not worth compiling."""
        known = self._precisions_on(device or self.devices()[0])
        return tuple(name for name in known if name != "int8") if self.fused else known

    def _precisions_on(self, device: str) -> tuple[str, ...]:
        if device == "cuda":
            bf16 = ("bf16",) if torch.cuda.is_bf16_supported() else ()
            return ("fp32", *bf16, "fp16", "int8")
        if device == "mps":
            return ("fp32", "fp16", "int8")
        return ("fp32", "bf16", "int8") if _processor_has_bf16() else ("fp32", "int8")

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> PyTorchSession:
        """Decode the weights and keep them. `threads` holds for the whole process; nothing is cached."""
        tensors = itertools.chain(part.module.parameters(), part.module.buffers())
        device = next((tensor.device.type for tensor in tensors), "cpu")
        if self.version() is None:
            raise UserError("torch.compile needs a C++ compiler, and none was found. Use --runtime pytorch.")
        known = self.precisions(device)
        if precision not in known:
            raise UserError(f"PyTorch does not compute in {precision} on {device}. Choose one of {', '.join(known)}.")
        if threads is not None:
            torch.set_num_threads(threads)
        integers = precision == "int8" and rounds_inputs(part.module)
        module = decoded_program(part.module, integers=integers).to(device).eval()
        if self.fused:
            examples = tuple(tensor.to(device) for tensor in part.inputs.values())
            module = _fused(module, examples, precision)
        session = PyTorchSession(module, precision, device, simulated=integers, runtime=self.name)
        if check is not None and (self.fused or precision in _LOWER):  # else it is the engine's own network
            check(session)
        return session


class PyTorchSession:
    """A module run by PyTorch."""

    def __init__(
        self, module: nn.Module, precision: str, device: str, *, simulated: bool, runtime: str = "pytorch"
    ) -> None:
        self.runtime, self.precision, self.device, self.simulated = runtime, precision, device, simulated
        self._module = module
        self._lower = _LOWER.get(precision)
        self._lock = threading.Lock()

    def release(self) -> None:
        """What PyTorch keeps for further passes."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_memory()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run once; the outputs are float32 on the processor."""
        inputs = tuple(tensor.to(self.device) for tensor in inputs)
        enabled = self._lower is not None
        with self._lock, torch.inference_mode(), torch.autocast(self.device, self._lower, enabled=enabled):
            try:
                found = self._module(*inputs)
            except Exception as error:  # of every kind, where the compiler compiles for another number of boxes
                if lacks_memory(error):
                    raise MemoryError("running the model") from error
                if self.runtime != "pytorch-compiled":
                    raise
                raise UserError(
                    f"torch.compile failed on this input ({first_line(error)}). Use --runtime pytorch."
                ) from error
        if isinstance(found, (tuple, list)):
            return tuple(tensor.float().cpu() for tensor in found)
        return found.float().cpu()


def _processor_has_bf16() -> bool:
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(able.get(name) is True for name in _BF16)


def _compiler() -> str | None:
    """The C++ compiler that `torch.compile` would find."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _fused(module: nn.Module, examples: tuple[torch.Tensor, ...], precision: str) -> nn.Module:
    """The module compiled for inputs like the examples."""
    device, lower = examples[0].device.type, _LOWER.get(precision)
    try:
        compiled = torch.compile(module)
        with torch.inference_mode(), torch.autocast(device, lower, enabled=lower is not None):
            compiled(*examples)
    except Exception as error:  # the compiler's own errors, of every kind
        if lacks_memory(error):
            raise MemoryError("compiling") from error
        raise UserError(
            f"torch.compile cannot compile this model ({first_line(error)}). Use --runtime pytorch."
        ) from error
    return compiled
