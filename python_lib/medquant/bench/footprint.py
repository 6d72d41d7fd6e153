"""What quantizing MedSAM's network takes, and how large the result is: time by stage, memory, bytes on disk.

The network is SAM ViT-B as `transformers` builds it, with random weights: size and arithmetic do not depend on their
values, and nothing needs a download. Accuracy is not measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import SamConfig, SamModel

from medquant.imaging.volume import Volume
from medquant.mixed.best import size_of
from medquant.models.base import CalibrationSelection
from medquant.models.prompt_images import MEDSAM
from medquant.models.sam import SamModelAdapter
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

SLICES = 8


def random_vit_b() -> SamModelAdapter:
    """MedSAM's network with random weights (its relative positions and token statistics drawn like the rest)."""
    torch.manual_seed(0)
    config = SamConfig()
    network = SamModel(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
    spec = {
        "family": "medsam",
        "name": "SAM ViT-B, random",
        "config": config.to_dict(),
        "preprocessing": MEDSAM.to_dict(),
    }
    return SamModelAdapter(network, preprocessing=MEDSAM, name="SAM ViT-B, random", spec=spec, weights_hash="")


def run(
    *,
    bits: Sequence[int] = (4, 2, 8),
    volume: Volume | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """One row for each number of bits: seconds by stage, peak memory, bytes on disk against FP32."""
    tracker = Progress(progress, cancelled)
    if volume is None:
        from medquant.embedded.phantom import make_phantom

        tracker.report(0.0, "Making the phantom")
        array, _, _, affine = make_phantom()
        volume = Volume(array, affine, "phantom", "CT")
    model = random_vit_b()
    full_bytes = sum(tensor.nbytes for tensor in model.network.state_dict().values())
    rows = []
    for number, b in enumerate(bits):
        part = tracker.span(number / len(bits), (number + 1) / len(bits))
        quantized = quantize(
            model,
            volume,
            recipe=Recipe(weights=IntWeights(b)),
            selection=CalibrationSelection(count=SLICES),
            progress=None if progress is None else lambda event, part=part: part.report(event.fraction, event.message),
            cancelled=cancelled,
        )
        report, size = quantized.report, size_of(quantized)
        rows.append(
            {
                "network": model.name,
                "weight_bits": b,
                "effective_bits": report.effective_bits,
                "bits_per_parameter": report.bits_per_parameter,
                "bytes_on_disk": size,
                "bytes_fp32": full_bytes,
                "calibration_slices": report.calibration_inputs,
                "seconds": report.seconds,
                "peak_memory_mb": report.peak_memory_mb,
                "threads": torch.get_num_threads(),
            }
        )
    return rows
