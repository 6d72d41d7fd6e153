"""A model whose parts are executed by a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from medquant.deploy.choose import AS_IT_IS, choose, forget_choice
from medquant.deploy.compiling import compile_parts, spoken
from medquant.deploy.program import rounds_inputs
from medquant.deploy.runtime import PRECISIONS, RUNTIMES, Session
from medquant.errors import UserError, one_of
from medquant.models.base import Model, Part, device_of
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantized_model import QuantizedModel
from medquant.segment import execution_of

M = TypeVar("M", Model, QuantizedModel)


def accelerate(
    model: M,
    runtime: str = "auto",
    *,
    precision: str = "auto",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> M:
    """A twin of `model` whose parts `runtime` executes; the model itself stays as it is.

    `runtime`: "auto" (measured on this machine and remembered), "pytorch", "openvino", "onnxruntime", "tensorrt", or
    "pytorch-compiled", which "auto" never takes: it compiles for up to minutes in every process.
    `precision`: "auto" (integers where the activations are quantized and the runtime has them, as "pytorch-compiled"
    has not; else FP32, inputs as they are), "fp32", "bf16", "fp16" or "int8". A part that the runtime cannot do, or
    does otherwise than the engine, stays with PyTorch, and the twin's `why` says so. Raises `UserError` where that is
    all of the model, for a runtime that is not installed or lacks the precision, a model without quantized activations
    asked for "int8", and inputs of unknown shape; `Cancelled` as soon as `cancelled()` turns true.
    """
    report = Progress(progress, cancelled)
    adapter = model.model if isinstance(model, QuantizedModel) else model
    if runtime not in ("auto", *RUNTIMES):
        raise UserError(f"There is no runtime {runtime!r}. Choose {one_of(('auto', *RUNTIMES))}.")
    if precision not in ("auto", *PRECISIONS):
        raise UserError(f"There is no precision {precision!r}. Choose {one_of(('auto', *PRECISIONS))}.")
    if runtime == "pytorch" and precision == AS_IT_IS:
        return _twin(model, {}, "")
    parts = adapter.parts()
    if not all(part.inputs for part in parts.values()):
        if runtime == "auto" and precision == "auto":
            return _twin(model, {}, "PyTorch, as this model takes inputs of any size.")
        raise UserError(f"{model.name} takes inputs of any size. Give it a roi_size, or use --runtime pytorch.")
    if precision == "int8" and not any(rounds_inputs(part.module) for part in parts.values()):
        raise UserError(
            f"{model.name} has no quantized activations, which integer kernels need. Quantize it with activations of "
            "8 bits, or use --precision fp32."
        )
    if runtime == "auto":
        return _chosen(model, parts, precision, threads, report)
    _require(runtime, precision, device_of(adapter.network).type)
    wanted = precision if precision != "auto" else _usual(parts, runtime)
    sessions, lacking = compile_parts(parts, RUNTIMES[runtime], wanted, threads=threads, progress=report)
    return _twin(model, sessions, _stayed(lacking, runtime))


def _chosen(model: M, parts: Mapping[str, Part], precision: str, threads: int | None, report: Progress) -> M:
    choice, sessions = choose(parts, precision, model=model.name, threads=threads, progress=report.span(0.0, 0.9))
    if choice.precision == AS_IT_IS:
        return _twin(model, {}, choice.reason)
    if sessions is not None:
        return _twin(model, sessions, choice.reason)
    try:
        adapter = model.model if isinstance(model, QuantizedModel) else model
        _require(choice.runtime, choice.precision, device_of(adapter.network).type)
        runtime, rest = RUNTIMES[choice.runtime], report.span(0.9, 1.0)
        sessions, lacking = compile_parts(parts, runtime, choice.precision, threads=threads, progress=rest)
    except UserError as error:
        forget_choice(parts, precision, threads)
        return _twin(model, {}, f"PyTorch, as {choice.runtime} was chosen and then failed: {error}")
    return _twin(model, sessions, " ".join(filter(None, (choice.reason, _stayed(lacking, choice.runtime)))))


def _require(runtime: str, precision: str, device: str) -> None:
    known = RUNTIMES[runtime]
    if runtime == "tensorrt" and not torch.cuda.is_available():
        raise UserError("tensorrt needs an NVIDIA GPU, and PyTorch finds none here. Use --runtime auto.")
    if known.version() is None:
        raise UserError(f"{runtime} is not installed. {install_hint(runtime)}, or use --runtime auto.")
    if precision != "auto" and precision not in known.precisions(device):
        able = one_of(known.precisions(device))
        raise UserError(f"{runtime} does not compute in {precision} on this machine. Choose {able}.")


def install_hint(runtime: str) -> str:
    """How a runtime is installed."""
    if runtime == "pytorch-compiled":
        return "It takes a C++ compiler (g++, clang, or Visual Studio's cl)"
    return f"Install it with: pip install {'torch' if runtime == 'pytorch' else runtime}"


def _usual(parts: Mapping[str, Part], runtime: str) -> str:
    rounded = any(rounds_inputs(part.module) for part in parts.values())
    return "int8" if rounded and "int8" in RUNTIMES[runtime].precisions() else "fp32"


def _stayed(lacking: Mapping[str, str], runtime: str) -> str:
    return " ".join(f"The {spoken(name)} stays with PyTorch, not {runtime}: {why}" for name, why in lacking.items())


def _twin(model: M, sessions: dict[str, Session], why: str) -> M:
    if isinstance(model, QuantizedModel):
        twin = replace(model, model=_twin(model.model, sessions, why))
        return replace(twin, report=replace(model.report, simulated=bool(execution_of(twin).simulated)))
    twin = model.with_network(model.network)
    twin.sessions, twin.why = sessions, why
    return twin
