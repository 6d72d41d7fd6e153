"""Images of every setting from the same noise: how far from real slices, how far from FP32's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from medquant.bench.generation.features import EXTRACTOR, Features
from medquant.bench.generation.frechet import Gaussian, frechet_distance
from medquant.bench.generation.model import GenerationModel
from medquant.bench.generation.sampling import STEPS, generated, noise_of
from medquant.bench.generation.settings import FP32, Setting, settings
from medquant.embedded.diffusion_demo.configuration import WINDOW_HU
from medquant.embedded.diffusion_demo.dataset import FIRST_TEST_SEED, TEST_SEEDS, phantom_slices
from medquant.errors import UserError
from medquant.models.base import CalibrationBatch
from medquant.models.catalogue import EMBEDDED_DIFFUSION
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize

IMAGES = 128
WAYS = 8
"""From noise to image, that calibrate."""
SLICES = 8
"""Of each held-out phantom."""
MOST_IMAGES = SLICES * TEST_SEEDS // 2
"""As many real slices are wanted twice."""
REAL = "real slices"
KEPT = 8
"""Images of each setting for the figure."""


@dataclass(frozen=True)
class Row:
    """One setting."""

    precision: str
    method: str
    recipe: str
    fid: float
    """Fréchet distance of `features.EXTRACTOR` from held-out slices."""
    psnr: float | None
    """dB, mean over images against FP32's from the same noise, with a range of 2; None for FP32."""
    mae_hu: float | None
    """Mean absolute difference from FP32's images."""
    bytes_on_disk: int
    """Of the quantized model's file; of FP32 four for each parameter."""
    effective_bits: float
    seconds_per_image: float
    """By PyTorch."""
    simulated: bool
    """Whether rounded numbers are computed with in floating point."""

    @property
    def name(self) -> str:
        return f"{self.precision} {self.method}".strip()


@dataclass(frozen=True)
class Measured:
    """All of a run."""

    rows: tuple[Row, ...]
    floor: float
    """FID between two disjoint sets of real slices, of as many slices."""
    images: int
    steps: int
    features: str
    samples: dict[str, torch.Tensor]
    """Setting -> its first images (n, 1, 64, 64); first of all `REAL` slices."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the images."""
        told = {"floor": self.floor, "images": self.images, "steps": self.steps, "features": self.features}
        return {"rows": [asdict(row) for row in self.rows], **told}


def run(
    *,
    weights: Path = EMBEDDED_DIFFUSION,
    images: int = IMAGES,
    steps: int = STEPS,
    compared: Sequence[Setting] | None = None,
    processes: int = 1,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Measured:
    """Make `images` images in `steps` steps in FP32 and with every recipe of `compared` (all), and compare them.

    FID is against as many slices of phantoms that the network was not trained on. `processes` draw those. Raises
    `UserError` for numbers that do not work.
    """
    if not 2 <= images <= MOST_IMAGES:
        raise UserError(f"2 to {MOST_IMAGES} images can be compared with held-out slices, not {images}.")
    if not 1 <= steps <= 1000:
        raise UserError(f"The sampler takes 1 to 1000 steps, not {steps}. Choose {STEPS}.")
    tracker = Progress(progress, cancelled)
    model, features = GenerationModel.load(weights), Features()
    real, others = _held_out(images, tracker.span(0.0, 0.12), processes)
    reference = Gaussian.of(features(real, tracker.span(0.12, 0.16)))
    floor = frechet_distance(reference, Gaussian.of(features(others, tracker.span(0.16, 0.2))))
    batches = model.own_batches(WAYS, steps, tracker.span(0.2, 0.22))
    noise, plan = noise_of(images, 0), [FP32, *(settings() if compared is None else compared)]
    rows: list[Row] = []
    made: list[torch.Tensor] = []
    for number, setting in enumerate(plan):
        span = tracker.span(0.22 + 0.78 * number / len(plan), 0.22 + 0.78 * (number + 1) / len(plan))
        network, told = _rounded(model, setting, batches, span.span(0.0, 0.3))
        span.report(0.3, f"{setting.name}: making {images} images")
        began = time.perf_counter()
        made.append(generated(network, noise, steps, span.check))
        told["seconds_per_image"] = (time.perf_counter() - began) / images
        fid = frechet_distance(reference, Gaussian.of(features(made[-1], span.span(0.7, 1.0))))
        psnr, off = differences(made[-1], made[0]) if number else (None, None)
        rows.append(Row(setting.precision, setting.method, fid=fid, psnr=psnr, mae_hu=off, **told))
    samples = {REAL: real[torch.linspace(0, images - 1, min(KEPT, images)).long()]}
    samples |= {row.name: found[:KEPT] for row, found in zip(rows, made, strict=True)}
    return Measured(tuple(rows), floor, images, steps, EXTRACTOR, samples)


def differences(made: torch.Tensor, whole: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB and mean absolute difference in HU of images (n, 1, side, side) in -1..1 from FP32's: the means over
    images. Images that are the same have a PSNR of 100."""
    error = (made - whole).double()
    squared = error.square().mean((1, 2, 3)).clamp_min(4e-10)
    half = (WINDOW_HU[1] - WINDOW_HU[0]) / 2
    return float((10 * (4 / squared).log10()).mean()), float(error.abs().mean()) * half


def _held_out(images: int, progress: Progress, processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Twice as many real slices as there are images, of different phantoms."""
    each = -(-images // SLICES)
    seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + 2 * each)
    slices = phantom_slices(seeds, SLICES, progress, processes)
    return slices[:images], slices[each * SLICES :][:images]


def _rounded(
    model: GenerationModel, setting: Setting, batches: Sequence[CalibrationBatch], progress: Progress
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a setting, and what there is to say of it."""
    if setting.recipe is None:
        size = 4 * sum(parameter.numel() for parameter in model.network.parameters())
        return model.network, {"recipe": "", "bytes_on_disk": size, "effective_bits": 32.0, "simulated": False}
    quantized = quantize(model, batches, recipe=setting.recipe, **progress.callbacks(setting.name))
    with TemporaryDirectory(prefix="medquant-") as folder:
        size = quantized.save(Path(folder) / "model.mq.safetensors")
    report = quantized.report
    told = {"recipe": setting.recipe.describe(), "bytes_on_disk": size, "effective_bits": report.effective_bits}
    return quantized.model.network, {**told, "simulated": report.simulated}
