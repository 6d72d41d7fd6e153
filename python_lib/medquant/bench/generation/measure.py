"""Images of every setting from the same noise: how far from slices of phantoms, how far from FP32's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medquant.bench.generation.calibration import own_ways
from medquant.bench.generation.features import EXTRACTOR, Features
from medquant.bench.generation.frechet import Gaussian, frechet_distance
from medquant.bench.generation.sampling import STEPS, generated, noise_of
from medquant.bench.generation.settings import FP32, Setting, settings
from medquant.deploy.machine import Machine
from medquant.embedded.diffusion_demo.configuration import OPTIONS, WINDOW_HU, load_weights
from medquant.embedded.diffusion_demo.dataset import FIRST_TEST_SEED, single_slices
from medquant.errors import UserError
from medquant.mixed.best import size_of
from medquant.models.base import CalibrationBatch, Model
from medquant.models.catalogue import EMBEDDED_DIFFUSION
from medquant.models.torch_program import from_module
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantize import quantize

IMAGES = 128
WAYS = 8
"""From noise to image, that calibrate."""
FEWEST, MOST = 2, 2000
OTHER_SEED = 50_000
"""Of the other noise."""
REAL = "phantom slices"
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
    quantizing_peak_mb: float | None = None
    """Memory while it was quantized, above what was taken before; None for FP32."""

    @property
    def name(self) -> str:
        return f"{self.precision} {self.method}".strip()


@dataclass(frozen=True)
class Measured:
    """All of a run."""

    rows: tuple[Row, ...]
    fid_of_slices: float
    """FID of as many other slices of phantoms."""
    fid_again: float
    """FID of FP32's images from other noise: by so much a FID of so many images moves."""
    images: int
    steps: int
    features: str
    machine: str
    """Processor and threads that the seconds are of."""
    samples: dict[str, torch.Tensor]
    """Setting -> its first images (n, 1, 64, 64); first of all `REAL` slices."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the images."""
        rest = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("rows", "samples")
        }
        return {"rows": [asdict(row) for row in self.rows], **rest}


def run(
    *,
    weights: Path = EMBEDDED_DIFFUSION,
    images: int = IMAGES,
    steps: int = STEPS,
    compared: Sequence[Setting] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Measured:
    """Make `images` images in `steps` steps in FP32 and with every recipe of `compared` (all), and compare them.

    FID is against as many slices of phantoms that the network was not trained on, each of another one. `weights` is a
    folder as `medquant.embedded.diffusion_demo.training` writes it. Raises `UserError` for numbers that do not work,
    and for a folder without such weights.
    """
    if not FEWEST <= images <= MOST:
        raise UserError(f"{FEWEST} to {MOST} images can be compared with held-out slices, not {images}.")
    if not 1 <= steps <= 1000:
        raise UserError(f"The sampler takes 1 to 1000 steps, not {steps}. Choose {STEPS}.")
    tracker = Progress(progress, cancelled)
    network, features = load_weights(weights), Features()
    model = from_module(network, name=OPTIONS["name"], modality="CT", licence=OPTIONS["licence"])
    seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + 2 * images)
    real, others = single_slices(seeds, tracker.span(0.0, 0.2)).split(images)
    reference = Gaussian.of(features(real, tracker.span(0.2, 0.22)))

    def fid(found: torch.Tensor, span: Progress) -> float:
        return frechet_distance(reference, Gaussian.of(features(found, span)))

    fid_of_slices = fid(others, tracker.span(0.22, 0.24))
    again = generated(network, noise_of(images, OTHER_SEED), steps, tracker.check)
    fid_again = fid(again, tracker.span(0.26, 0.28))
    batches = own_ways(network, WAYS, steps, tracker.span(0.28, 0.3))
    noise, plan = noise_of(images, 0), [FP32, *(settings() if compared is None else compared)]
    rows: list[Row] = []
    made: list[torch.Tensor] = []
    for number, setting in enumerate(plan):
        span = tracker.span(0.3 + 0.7 * number / len(plan), 0.3 + 0.7 * (number + 1) / len(plan))
        rounded, told = _rounded(model, setting, batches, span.span(0.0, 0.3))
        span.report(0.3, f"{setting.name}: making {images} images")
        began = time.perf_counter()
        made.append(generated(rounded, noise, steps, span.check))
        told["seconds_per_image"] = (time.perf_counter() - began) / images
        psnr, off = differences(made[-1], made[0]) if number else (None, None)
        told["fid"] = fid(made[-1], span.span(0.7, 1.0))
        rows.append(Row(setting.precision, setting.method, psnr=psnr, mae_hu=off, **told))
    samples = {REAL: real[:KEPT]} | {row.name: found[:KEPT] for row, found in zip(rows, made, strict=True)}
    machine = f"{Machine.here().processor}, threads: {torch.get_num_threads()}"
    return Measured(tuple(rows), fid_of_slices, fid_again, images, steps, EXTRACTOR, machine, samples)


def differences(made: torch.Tensor, whole: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB and mean absolute difference in HU of images (n, 1, side, side) in -1..1 from FP32's: the means over
    images. Images that are the same have a PSNR of 100."""
    error = (made - whole).double()
    squared = error.square().mean((1, 2, 3)).clamp_min(4e-10)
    half = (WINDOW_HU[1] - WINDOW_HU[0]) / 2
    return float((10 * (4 / squared).log10()).mean()), float(error.abs().mean()) * half


def _rounded(
    model: Model, setting: Setting, batches: Sequence[CalibrationBatch], progress: Progress
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a setting, and what there is to say of it."""
    if setting.recipe is None:
        size = 4 * sum(parameter.numel() for parameter in model.network.parameters())
        return model.network, {"recipe": "", "bytes_on_disk": size, "effective_bits": 32.0, "simulated": False}
    quantized = quantize(model, batches, recipe=setting.recipe, **progress.callbacks(setting.name))
    report, size = quantized.report, size_of(quantized)
    told = {"recipe": setting.recipe.describe(), "bytes_on_disk": size, "effective_bits": report.effective_bits}
    told |= {"simulated": report.simulated, "quantizing_peak_mb": report.peak_memory_mb}
    return quantized.model.network, told
