"""The front door: a model, a calibration volume and a recipe in, a quantized model out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

import torch

import medquant
from medquant.accounting import account_for
from medquant.calibration_inputs import calibration_inputs
from medquant.imaging.volume import Volume
from medquant.memory import PeakMemory
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, device_of
from medquant.network_edit import stoppable
from medquant.products import quick_linears
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantization_run import QuantizationRun
from medquant.quantized_model import Provenance, QuantizedModel
from medquant.recipe import Recipe
from medquant.rewrites.redesign import redesigned


def quantize(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    recipe: Recipe | None = None,
    selection: CalibrationSelection | None = None,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> QuantizedModel:
    """Quantize the weights of `model`, which stays as it is.

    `calibration` is the open volume (unlabelled), several, or inputs of the network. `ignore` are name patterns of
    layers to leave in floating point. `max_memory_mb` bounds the memory of the calibration above the model's own; fewer
    inputs are used where not all would fit, see `report.calibration_inputs`. Every linear, convolution and transposed
    convolution layer is quantized or stands in `report.kept` with the reason; so does attention whose products are not
    rounded where activations are. With `recipe.redesign` a different model is made first, and named so; its
    training takes what memory it takes. Raises `UserError` for inputs that cannot calibrate, `Cancelled` when stopped.
    """
    recipe = recipe or Recipe()
    tracker = Progress(progress, cancelled)
    began = time.perf_counter()
    with PeakMemory() as memory:
        batches, hashes = calibration_inputs(model, calibration, selection or CalibrationSelection(), tracker)
        prepared = time.perf_counter()
        source, redesign, start = model, None, 0.05
        if recipe.redesign is not None:
            start = 0.5
            source, redesign = redesigned(model, batches, recipe.redesign, tracker.span(0.05, start))
        exchanged = time.perf_counter()
        work = QuantizationRun(source, batches, recipe, ignore, max_memory_mb, tracker.span(start, 1.0))
        with stoppable(work.network, tracker.check), quick_linears(work.network):
            work.run()
    seconds = {"calibration inputs": prepared - began}
    if redesign is not None:
        seconds["redesign"] = exchanged - prepared
    seconds |= {**work.seconds, "total": time.perf_counter() - began}
    report = account_for(work.network, work.reports, work.kept, seconds, len(work.batches))
    report = replace(report, peak_memory_mb=memory.peak_mb, rewritten=work.rewritten, redesign=redesign)
    provenance = Provenance(
        model=source.name,
        family=source.family,
        weights_sha256=source.weights_hash,
        calibration_sha256=hashes,
        medquant_version=medquant.__version__,
        torch_version=torch.__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=source.licence,
        redesign="" if redesign is None else redesign.describe(),
    )
    network = work.network.to(device_of(model.network))
    return QuantizedModel(source.with_network(network), recipe, report, provenance)
