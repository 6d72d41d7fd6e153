"""Segment a volume and measure what it cost."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from medquant.imaging.volume import Volume
from medquant.layers import decoded_once
from medquant.memory import PeakMemory
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation

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
) -> Segmentation:
    """Segment `volume` with an FP32 or a quantized model.

    Promptable models need a `prompt`; automatic ones take none. Returns labels on the volume's own grid, with the
    seconds and the peak memory of this call. Raises `UserError` for a prompt that is missing, empty or outside the
    volume, `Cancelled` when `cancelled()` turns true.
    """
    adapter = getattr(model, "model", model)
    with PeakMemory() as memory, decoded_once(adapter.network):
        began = time.perf_counter()
        result = adapter.segment(volume, prompt, Progress(progress, cancelled))
        seconds = time.perf_counter() - began
    return replace(result, seconds=seconds, peak_memory_mb=memory.peak_mb, model_name=model.name)
