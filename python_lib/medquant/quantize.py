"""The front door: a model, a calibration volume and a recipe in, a quantized model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch

import medquant
from medquant.accounting import account_for
from medquant.attention_products import AttentionSamples, floating_attention
from medquant.budget import plan_for
from medquant.calibrate import GATHER_MB, collect_moments, quantize_layer
from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.folding import fold_batch_norms
from medquant.gram import dilate
from medquant.imaging.volume import Volume
from medquant.input_grid import FocusOf, InputGrid, fit_input
from medquant.jobs import LayerJob, layer_jobs
from medquant.layers import QuantizedLayer, decoded_once
from medquant.lockstep import run_in_lockstep
from medquant.matrices import QUANTIZABLE
from medquant.memory import PeakMemory
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, device_of
from medquant.network_edit import round_to_half, set_module, stoppable, structural_twin
from medquant.observe import Observation, observe
from medquant.products import linear, quick_linears
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantized_model import LayerReport, Provenance, QuantizedModel
from medquant.recipe import Recipe
from medquant.rounding import round_layer
from medquant.shared_inputs import SeenInputs

SOLVING = 2
"""Time that solving takes, in passes of the network for each calibration input; for the estimate of the time left."""


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
    rounded where activations are. Raises `UserError` for inputs that cannot calibrate, `Cancelled` when stopped.
    """
    recipe = recipe or Recipe()
    tracker = Progress(progress, cancelled)
    began = time.perf_counter()
    with PeakMemory() as memory:
        batches, hashes = calibration_inputs(model, calibration, selection or CalibrationSelection(), tracker)
        prepared = time.perf_counter()
        work = _Work(model, batches, recipe, ignore, max_memory_mb, tracker.span(0.05, 1.0))
        with stoppable(work.network, tracker.check), quick_linears(work.network):
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
    network = work.network.to(device_of(model.network))
    return QuantizedModel(model.with_network(network), recipe, report, provenance)


class _Work:
    """One quantization under way: the twin network, its layers, and what was found so far."""

    def __init__(
        self,
        model: Model,
        batches: list[CalibrationBatch],
        recipe: Recipe,
        ignore: Sequence[str],
        max_memory_mb: float | None,
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
        self.frugal: frozenset[str] = frozenset()
        self.seconds: dict[str, float] = {}
        self.seen_inputs = SeenInputs()
        self.focus: list[torch.Tensor | None] = [batch.focus for batch in batches]

    def run(self) -> None:
        seen = self._timed("first pass", self._observe)
        if self.recipe.fold_batch_norm:
            fold_batch_norms(self.network, seen, lambda: self._forward(self.batches[0]))
        jobs, self.kept = layer_jobs(self.network, seen, self.recipe, self.ignore)
        if not jobs:
            raise UserError("No layer is left to quantize. Give fewer patterns to ignore.")
        self._plan(jobs, seen)
        round_to_half(self.network, except_for=jobs)
        self._timed("foreground", self._find_focus, seen)
        began = time.perf_counter()
        settings = self.recipe.activations
        with AttentionSamples(self.network) if settings and settings.attention else nullcontext() as attention:
            if self.recipe.calibration.sequential:
                self._sequential(jobs)
            else:
                self._independent(jobs)
        solved = sum(report.seconds for report in self.reports.values())
        self.seconds["solving"] = solved
        self.seconds["network and moments"] = time.perf_counter() - began - solved
        for name, layer in self.quantized.items():
            set_module(self.network, name, layer)
        if attention is not None:
            attention.fit(settings)
        if settings is not None:
            self.kept |= floating_attention(self.network)

    def _plan(self, jobs: dict[str, LayerJob], seen: Observation) -> None:
        """Use as many inputs as memory allows; each has an FP32 and a quantized pass."""
        plan = plan_for(
            jobs,
            seen.held_bytes,
            seen.pass_bytes,
            len(self.batches),
            passes=2 if self.recipe.calibration.sequential else 1,
            gather_mb=GATHER_MB,
            moments=self.recipe.needs_moments,
            limit_mb=self.max_memory_mb,
        )
        self.frugal = plan.frugal
        self.batches = [self.batches[i] for i in plan.inputs]
        self.focus = [self.focus[i] for i in plan.inputs]

    def _observe(self) -> Observation:
        self.tracker.report(0.0, "Looking at the network")
        try:
            run, variances = partial(self._forward, self.batches[0]), self.recipe.drop_dead_channels
            return observe(self.network, run, variances=variances)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"The network cannot take the calibration input ({error}). Check the number of channels, the size and "
                "the preprocessing."
            ) from error

    def _find_focus(self, seen: Observation) -> None:
        if self.recipe.calibration.foreground_share <= 0:
            return
        for number, batch in enumerate(self.batches):
            if self.focus[number] is not None:
                continue
            self.tracker.report(
                self._done(number), f"Finding what matters in input {number + 1} of {len(self.batches)}"
            )
            with torch.inference_mode():
                logits = seen.output if number == 0 else self._forward(batch)
                found = self.model.foreground(logits)
                if found.ndim < 2:
                    return  # an output without places has no foreground
                self.focus[number] = dilate(found, max(2, max(found.shape[1:]) // 32)).float()

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
            return [job.full] * count + [partial(self.quantized[name].compute, multiply=linear)] * count

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
        if job.activations is not None and full is None:
            full = inputs  # rounding its input, the layer gets something else even where nothing before it is quantized
        if not all(bool(torch.isfinite(one).all()) for one in inputs):
            raise UserError(
                f"Layer {job.name} gets values that are not finite on the calibration inputs. Check the preprocessing, "
                "or choose other slices."
            )
        input_grid = self._input_grid(job, inputs, focus_of)
        target = input_grid.job(job)
        if not self.recipe.needs_moments:
            layer, report = round_layer(target, inputs, focus_of, self.recipe, input_grid, check)
        else:
            layer, report = self._fitted(target, inputs, full, focus_of, input_grid)
        input_grid.give_to(layer)
        self.quantized[job.name], self.reports[job.name] = layer, report

    def _input_grid(self, job: LayerJob, inputs: list[torch.Tensor], focus_of: FocusOf) -> InputGrid:
        joins = job.activations is not None and job.geometry.kind.startswith("Conv")
        shared = self.seen_inputs.part_of(inputs[0]) if joins else None
        found = fit_input(job, inputs, focus_of, self.recipe.calibration, shared)
        if joins:
            self.seen_inputs.add(inputs[0], found)
        return found

    def _fitted(
        self,
        job: LayerJob,
        inputs: list[torch.Tensor],
        full: list[torch.Tensor] | None,
        focus_of: FocusOf,
        input_grid: InputGrid,
    ) -> tuple[QuantizedLayer, LayerReport]:
        plenty = job.name not in self.frugal
        moments = collect_moments(
            job,
            inputs,
            full if plenty else None,
            focus_of,
            self.recipe,
            self.tracker.check,
            halves=plenty,
            input_grid=input_grid,
        )
        return quantize_layer(job, moments, self.recipe, self.tracker.check)

    def _announce(self, done: int, count: int, fraction: float) -> None:
        ready = self._done(len(self.batches))
        self.tracker.report(ready + (1 - ready) * fraction, f"Quantizing layer {done + 1} of {count}")

    def _done(self, passes: int) -> float:
        """Part of the work that is done after so many passes in search of the foreground."""
        searched = sum(batch.focus is None for batch in self.batches[:passes])
        all_searched = sum(batch.focus is None for batch in self.batches)
        return (1 + searched) / (1 + all_searched + (2 + SOLVING) * len(self.batches))

    def _forward(self, batch: CalibrationBatch) -> torch.Tensor:
        self.tracker.check()
        return self.model.forward_for_calibration(self.network, *batch.inputs)

    def _timed(self, stage: str, work: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        result = work(*args)
        self.seconds[stage] = time.perf_counter() - began
        return result
