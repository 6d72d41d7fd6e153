"""Segment a volume and measure what it cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.layers import decoded_once
from medquant.memory import PeakMemory, lacks_memory
from medquant.progress import CancelCheck, PartialCallback, Progress, ProgressCallback
from medquant.prompts import BoxPrompt
from medquant.segmentation import Execution, Segmentation

if TYPE_CHECKING:
    from medquant.models.base import Model
    from medquant.quantized_model import QuantizedModel


def segment(
    model: Model | QuantizedModel,
    volume: Volume,
    *,
    prompt: BoxPrompt | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
    partial: PartialCallback | None = None,
) -> Segmentation:
    """Segment `volume` with an FP32 or a quantized model.

    Promptable models need a `prompt`; automatic ones take none. Models that walk through slices give the labels of each
    to `partial` as they come, from a thread of their own. Returns labels on the volume's own grid, with the
    seconds and the peak memory of this call and what computed it. Raises `UserError` for a prompt that is missing,
    empty or outside the volume, and where the memory does not suffice; `Cancelled` when `cancelled()` turns true.
    """
    adapter = getattr(model, "model", model)
    decoded = nullcontext() if adapter.sessions else decoded_once(adapter.network)
    with PeakMemory() as memory, decoded, _memory_told(model.name):
        began = time.perf_counter()
        result = adapter.segment(volume, prompt, Progress(progress, cancelled, partial=partial))
        seconds = time.perf_counter() - began
    execution = execution_of(model)
    if result.fallback:
        execution = by_pytorch(model) if result.fallback.by_pytorch else execution
        execution = replace(execution, reason=result.fallback.reason)
    return replace(
        result,
        seconds=seconds,
        peak_memory_mb=memory.peak_mb,
        model_name=model.name,
        execution=execution,
    )


def execution_of(model: Model | QuantizedModel) -> Execution:
    """What computes a model as it stands."""
    adapter = getattr(model, "model", model)
    quantized, sessions = adapter is not model, adapter.sessions.values()
    if not sessions:
        return by_pytorch(model)
    runtime, device, precision = (
        " + ".join(dict.fromkeys(getattr(session, name) for session in sessions))
        for name in ("runtime", "device", "precision")
    )
    integers = [session for session in sessions if session.precision == "int8"]
    simulated = not integers or any(session.simulated for session in integers)
    layers, floating = None, None
    if quantized and integers and all(hasattr(session, "layers") for session in integers):
        # A part that was to run on integers and stayed with PyTorch counts its layers too.
        stayed = [session for session in sessions if session not in integers and session.runtime == "pytorch"]
        counted = [session for session in (*integers, *stayed) if hasattr(session, "layers")]
        layers = sum(session.layers for session in counted)
        floating = layers - sum(session.integer_layers for session in counted)
        simulated = 2 * floating > layers
    products = sum(
        getattr(session, "quantized_products", 0) - getattr(session, "integer_products", 0) for session in integers
    )
    return Execution(
        runtime,
        device.upper(),
        precision,
        simulated if quantized else None,
        adapter.why,
        layers,
        floating,
        floating_products=products if quantized else 0,
    )


def by_pytorch(model: Model | QuantizedModel) -> Execution:
    """What computes a model without any runtime."""
    from medquant.models.base import device_of

    adapter = getattr(model, "model", model)
    quantized = adapter is not model
    device = device_of(adapter.network).type.upper()
    precision = "int8" if quantized and model.recipe.activations is not None else "fp32"
    return Execution(device=device, precision=precision, simulated=True if quantized else None, reason=adapter.why)


@contextmanager
def _memory_told(name: str) -> Iterator[None]:
    """Turn a failed allocation, however a library reports it, into a message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise UserError(
            f"There is not enough memory to run {name} on this scan. Close other programs, cut the scan to the part "
            "of interest, or take a smaller model."
        ) from error
