"""What executes a part of a model: one small protocol, and the runtimes that keep it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from medquant.models.base import Part

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""In "int8", quantized layers run on integers where the runtime has kernels, the rest in the best floating point."""


class Session(Protocol):
    """A compiled part: tensors in, a tensor (or a tuple of them) out, float32 on the processor.

    Calls from several threads run one after the other. Raises `MemoryError` where the memory does not suffice.
    """

    runtime: str
    precision: str
    device: str
    simulated: bool
    """Whether any quantized layer is computed in floating point with rounded numbers, not on integers.

    Sessions that know have `layers`, how many layers they run, and `integer_layers`, how many of these on integers;
    of the products of attention `quantized_products`, how many were to run on integers, and `integer_products`, how
    many do.
    """

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]: ...

    def release(self) -> None:
        """Give back what passes left in memory, as far as the runtime lets go of it; the next one takes it anew."""


Check = Callable[[Session], bool]
"""Whether a session that was compiled just now may be kept; raises `UserError` for one that must not be used."""


class Runtime(Protocol):
    """A library that compiles and executes parts."""

    name: str

    def version(self) -> str | None:
        """The version that is installed; None where it is not."""

    def devices(self) -> list[str]:
        """What it can run on here, the preferred one first; empty where it is not installed."""

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        """Those of `PRECISIONS` that make sense for a model on `device` ("cpu", "cuda"); None: on the preferred one."""

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> Session:
        """Compile `part`. `cache`: a folder where compiled models are kept between runs; None keeps none.

        `check` sees what was compiled anew before it is kept; what the cache holds was seen when it was made.
        Raises `UserError` where the runtime is not installed, or lacks the precision or an operator.
        """


def _runtimes() -> dict[str, Runtime]:
    from medquant.deploy.onnxruntime_runtime import OnnxRuntime
    from medquant.deploy.openvino_runtime import OpenVino
    from medquant.deploy.pytorch_runtime import PyTorch
    from medquant.deploy.tensorrt_runtime import TensorRT

    return {
        runtime.name: runtime for runtime in (PyTorch(), OpenVino(), OnnxRuntime(), TensorRT(), PyTorch(fused=True))
    }


RUNTIMES: dict[str, Runtime] = _runtimes()
