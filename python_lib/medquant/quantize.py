"""The front door: a model, a calibration volume and a recipe in, a quantized model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any

import psutil
import torch
from torch import nn

import medquant
from medquant.accounting import account_for
from medquant.activation_settings import IntActivations
from medquant.calibrate import LayerJob, collect_moments, gram_megabytes, quantize_layer
from medquant.channels import Live, live_channels
from medquant.errors import UserError
from medquant.geometry import LayerGeometry
from medquant.gram import dilate
from medquant.imaging.volume import Volume
from medquant.input_grid import fit_input
from medquant.layers import QuantizedLayer, decoded_once, divided, multiplied
from medquant.lockstep import run_in_lockstep
from medquant.matrices import QUANTIZABLE, Layout, is_quantizable
from medquant.memory import PeakMemory
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.network_edit import round_to_half, set_module, stoppable, structural_twin
from medquant.observe import Observation, fold_batch_norm, observe
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantized_model import LayerReport, Provenance, QuantizedModel
from medquant.recipe import Recipe

MEMORY_SHARE = 0.5
"""Part of the free memory that calibration may take where the caller sets no limit."""


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
    layers to leave in floating point. `max_memory_mb` bounds the memory of the calibration passes (default: half of
    what is free); fewer inputs are used where not all would fit, see `report.calibration_inputs`. Every linear,
    convolution and transposed convolution layer is quantized or stands in `report.kept` with the reason. Raises
    `UserError` for inputs that cannot calibrate, `Cancelled` when stopped.
    """
    recipe = recipe or Recipe()
    tracker = Progress(progress, cancelled)
    began = time.perf_counter()
    with PeakMemory() as memory:
        batches, hashes = _calibration_batches(model, calibration, selection or CalibrationSelection(), tracker)
        prepared = time.perf_counter()
        limit = psutil.virtual_memory().available / 1e6 * MEMORY_SHARE if max_memory_mb is None else max_memory_mb
        work = _Work(model, batches, recipe, ignore, limit, tracker.span(0.05, 1.0))
        with stoppable(work.network, tracker.check):
            work.run()
    seconds = {"calibration inputs": prepared - began, **work.seconds, "total": time.perf_counter() - began}
    report = account_for(work.network, work.reports, work.kept, seconds, len(work.batches))
    report = replace(report, peak_memory_mb=memory.peak_mb)
    provenance = Provenance(
        model=model.name,
        family=model.family,
        weights_sha256=model.weights_hash,
        calibration_sha256=hashes,
        medquant_version=medquant.__version__,
        torch_version=torch.__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=model.licence,
    )
    return QuantizedModel(model.with_network(work.network), recipe, report, provenance)


class _Work:
    """One quantization under way: the twin network, its layers, and what was found so far."""

    def __init__(
        self,
        model: Model,
        batches: list[CalibrationBatch],
        recipe: Recipe,
        ignore: Sequence[str],
        max_memory_mb: float,
        tracker: Progress,
    ) -> None:
        if isinstance(model.network, QUANTIZABLE):
            raise UserError("The network is a single layer. Wrap it in torch.nn.Sequential.")
        for name, tensor in model.network.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise UserError(f"{name} of the network has values that are not finite. Load undamaged weights.")
        self.model, self.batches, self.recipe, self.tracker = model, batches, recipe, tracker
        self.ignore = dict.fromkeys(model.default_ignore(), "kept by the model's own rule")
        self.ignore |= dict.fromkeys(ignore, "ignored as asked")
        self.max_memory_mb = max_memory_mb
        self.network = structural_twin(model.network)
        self.kept: dict[str, str] = {}
        self.reports: dict[str, LayerReport] = {}
        self.quantized: dict[str, QuantizedLayer] = {}
        self.activations: dict[str, IntActivations | None] = {}
        self.seconds: dict[str, float] = {}
        self.focus: list[torch.Tensor | None] = [batch.focus for batch in batches]

    def run(self) -> None:
        with PeakMemory() as memory:
            seen = self._timed("first pass", self._observe)
        # Memory that earlier work gave back may be used again unseen; a pass holds two large outputs at least.
        self._fit_into(max(memory.extra_mb, 2 * seen.largest_bytes / 1e6))
        self._fold(seen)
        jobs = self._jobs(seen)
        round_to_half(self.network, except_for=jobs)
        self._timed("foreground", self._find_focus, seen)
        if not jobs:
            raise UserError("No layer is left to quantize. Give fewer patterns to ignore.")
        began = time.perf_counter()
        if self.recipe.calibration.sequential:
            self._sequential(jobs)
        else:
            self._independent(jobs)
        solved = sum(report.seconds for report in self.reports.values())
        self.seconds["solving"] = solved
        self.seconds["network and moments"] = time.perf_counter() - began - solved
        for name, layer in self.quantized.items():
            set_module(self.network, name, layer)

    def _fit_into(self, one_pass_mb: float) -> None:
        """Keep as many inputs, evenly spread, as can be under way at once; each has an FP32 and a quantized pass."""
        passes = 2 if self.recipe.calibration.sequential else 1
        fitting = int(self.max_memory_mb / max(passes * one_pass_mb, 1e-6))
        if fitting < 1:
            raise UserError(
                f"One calibration input takes about {passes * one_pass_mb:.0f} MB, {self.max_memory_mb:.0f} MB are "
                "allowed. Allow more memory, or close other programs."
            )
        count = len(self.batches)
        if fitting < count:
            chosen = [i * count // fitting for i in range(fitting)]
            self.batches = [self.batches[i] for i in chosen]
            self.focus = [self.focus[i] for i in chosen]

    def _observe(self) -> Observation:
        self.tracker.report(0.0, "Looking at the network")
        try:
            return observe(self.network, lambda: self._forward(self.batches[0]))
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"The network cannot take the calibration input ({error}). Check the number of channels, the size and "
                "the preprocessing."
            ) from error

    def _fold(self, seen: Observation) -> None:
        if not self.recipe.fold_batch_norm or not seen.batch_norms:
            return
        folded = [self.network.get_submodule(name) for name in seen.batch_norms]
        before = [(layer, layer.weight, layer.bias) for layer in folded]
        norms = {name: self.network.get_submodule(name) for name in seen.batch_norms.values()}
        for convolution, norm in seen.batch_norms.items():
            layer = self.network.get_submodule(convolution)
            weight, bias = fold_batch_norm(layer, norms[norm])
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.bias = nn.Parameter(bias, requires_grad=False)
            set_module(self.network, norm, nn.Identity())
        with torch.inference_mode():
            output = self._forward(self.batches[0])
        size = seen.output.abs().max().clamp_min(1e-6)
        if float((output - seen.output).abs().max() / size) <= 1e-3:
            return
        # The network uses a convolution's output before its norm as well: leave the norms where they are.
        for layer, weight, bias in before:
            layer.weight, layer.bias = weight, bias
        for name, norm in norms.items():
            set_module(self.network, name, norm)
        seen.batch_norms.clear()

    def _find_focus(self, seen: Observation) -> None:
        if self.recipe.calibration.foreground_share <= 0:
            return
        for number, batch in enumerate(self.batches):
            if self.focus[number] is not None:
                continue
            self.tracker.report(0.05, f"Finding what matters in input {number + 1} of {len(self.batches)}")
            with torch.inference_mode():
                logits = seen.output if number == 0 else self._forward(batch)
                found = self.model.foreground(logits)
                if found.ndim < 2:
                    return  # an output without places has no foreground
                self.focus[number] = dilate(found, max(2, max(found.shape[1:]) // 32)).float()

    def _jobs(self, seen: Observation) -> dict[str, LayerJob]:
        modules = dict(self.network.named_modules())
        names = []
        for name, module in modules.items():
            if isinstance(module, nn.MultiheadAttention):
                inside = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
                found = (f"{name}.{key}" for key in inside if getattr(module, key) is not None)
                self.kept |= dict.fromkeys(found, "a weight of nn.MultiheadAttention, not of a layer")
            if not isinstance(module, QUANTIZABLE):
                continue
            reason = self._reason_to_keep(name, module, seen)
            if reason:
                self.kept[name] = reason
            else:
                names.append(name)
        names.sort(key=seen.order.index)
        live = {name: self._live(name, modules[name], seen) for name in names}
        live |= dict.fromkeys((names[0], names[-1]), Live()) if names else {}
        sizes = {name: modules[name].weight.numel() for name in names}
        chosen = self.recipe.weights_for(sizes, {name: part.share() for name, part in live.items()})
        jobs = {}
        for index, (name, bits) in enumerate(chosen.items()):
            if bits is None:
                self.kept[name] = "kept by the recipe"
                continue
            module = modules[name]
            weight = module.weight.detach().float()
            bias = None if module.bias is None else module.bias.detach().float()
            jobs[name] = LayerJob(name, index, module, weight, bias, bits, LayerGeometry.of(module), live[name])
            if gram_megabytes(jobs[name], full=False) > self.max_memory_mb:
                raise UserError(
                    f"Layer {name} needs about {gram_megabytes(jobs[name], full=False):.0f} MB to be solved, "
                    f"{self.max_memory_mb:.0f} MB are allowed. Allow more memory, or ignore that layer."
                )
        self.activations = self.recipe.activations_for(list(jobs))
        return jobs

    def _live(self, name: str, module: nn.Module, seen: Observation) -> Live:
        if not self.recipe.drop_dead_channels or self.recipe.scope == "layer" or name not in seen.variances:
            return Live()
        folded = self.recipe.fold_batch_norm and name in seen.batch_norms
        weight, bits = module.weight.detach().float(), self.recipe.weights.bits
        return live_channels(weight, Layout.of(module), seen.variances[name], bits, folded=folded)

    def _reason_to_keep(self, name: str, module: nn.Module, seen: Observation) -> str:
        for pattern, reason in self.ignore.items():
            if fnmatchcase(name, pattern):
                return reason
        if not is_quantizable(module):
            return "its forward pass is not that of a plain layer"
        if hasattr(module, "parametrizations"):
            return "its weight is computed from other parameters"
        if name not in seen.calls:
            return "not called as a layer on the calibration inputs"
        return ""

    def _sequential(self, jobs: dict[str, LayerJob]) -> None:
        count = len(self.batches)
        total = sum(job.weight.numel() for job in jobs.values())
        done = 0

        def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
            nonlocal done
            job = jobs[name]
            self._announce(len(self.reports), len(jobs), done / total)
            full, quantized = inputs[:count], inputs[count:]
            # Before the first quantized layer both networks see the same: no correction, half the work.
            same = all(a is b or torch.equal(a, b) for a, b in zip(full, quantized))
            self._solve(job, quantized, None if same else full)
            done += job.weight.numel()
            # Every input goes through this layer next.
            latest.close()
            latest.enter_context(decoded_once(self.quantized[name]))
            return [job.full] * count + [self.quantized[name]] * count

        runs = [lambda batch=batch: self._forward(batch) for batch in self.batches] * 2
        modules = dict(self.network.named_modules())
        with ExitStack() as latest:
            run_in_lockstep({name: modules[name] for name in jobs}, runs, at_layer)

    def _independent(self, jobs: dict[str, LayerJob]) -> None:
        def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
            job = jobs[name]
            self._announce(len(self.reports), len(jobs), len(self.reports) / len(jobs))
            self._solve(job, inputs, None)
            return [job.full] * len(inputs)

        runs = [lambda batch=batch: self._forward(batch) for batch in self.batches]
        modules = dict(self.network.named_modules())
        run_in_lockstep({name: modules[name] for name in jobs}, runs, at_layer)

    def _solve(self, job: LayerJob, inputs: list[torch.Tensor], full: list[torch.Tensor] | None) -> None:
        def focus_of(job: LayerJob, number: int, grid: tuple[int, ...]) -> torch.Tensor | None:
            return self.model.row_focus(job.name, job.module, grid, self.focus[number])

        check = self.tracker.check
        settings = self.activations[job.name]
        divisor, quantizer = None, None
        if settings is not None:
            # What the layer gets differs from what it should get even where nothing before it is quantized.
            full = inputs if full is None else full
            share, seed = self.recipe.calibration.foreground_share, self.recipe.calibration.seed
            divisor, quantizer = fit_input(job, inputs, settings, focus_of, share, seed)
        if divisor is not None:
            job = replace(job, weight=multiplied(job.weight, divisor, job.geometry))

        def scaled(values: torch.Tensor) -> torch.Tensor:
            return values if divisor is None else divided(values, divisor, job.geometry)

        def rounded(values: torch.Tensor) -> torch.Tensor:
            return scaled(values) if quantizer is None else quantizer(scaled(values))

        plenty = gram_megabytes(job, full=True) <= self.max_memory_mb
        moments = collect_moments(
            job,
            inputs,
            full if plenty else None,
            focus_of,
            self.recipe,
            check,
            halves=plenty,
            prepare=rounded,
            prepare_full=scaled,
        )
        layer, self.reports[job.name] = quantize_layer(job, moments, self.recipe, check)
        layer.input_divisor, layer.input_quantizer = divisor, quantizer
        self.quantized[job.name] = layer

    def _announce(self, done: int, count: int, fraction: float) -> None:
        self.tracker.report(0.1 + 0.9 * fraction, f"Quantizing layer {done + 1} of {count}")

    def _forward(self, batch: CalibrationBatch) -> torch.Tensor:
        self.tracker.check()
        return self.model.forward_for_calibration(self.network, *batch.inputs)

    def _timed(self, stage: str, work: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        result = work(*args)
        self.seconds[stage] = time.perf_counter() - began
        return result


def _calibration_batches(
    model: Model, calibration: Any, selection: CalibrationSelection, tracker: Progress
) -> tuple[list[CalibrationBatch], tuple[str, ...]]:
    if isinstance(calibration, Volume):
        calibration = [calibration]
    if not len(calibration):
        raise UserError("There is nothing to calibrate with. Give a volume, or choose more slices.")
    if isinstance(calibration[0], CalibrationBatch):
        return list(calibration), ()
    batches: list[CalibrationBatch] = []
    for volume in calibration:
        tracker.report(0.0, "Preparing the calibration inputs")
        batches.extend(model.calibration_batches(volume, selection, tracker.span(0.0, 0.05)))
    if not batches:
        raise UserError("No part of the volume can be used to calibrate. Choose other slices.")
    return batches, tuple(volume.content_hash() for volume in calibration)
