"""One quantization under way: the twin network, its layers, and what was found so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch

from medquant.attention_products import AttentionSamples, floating_attention
from medquant.budget import plan_for
from medquant.calibrate import GATHER_MB, collect_moments, quantize_layer
from medquant.errors import UserError
from medquant.folding import fold_batch_norms
from medquant.gram import Moments, dilate
from medquant.input_grid import InputGrid, fit_input, input_samples
from medquant.jobs import LayerJob, layer_jobs
from medquant.layers import QuantizedLayer, decoded_once
from medquant.lockstep import run_in_lockstep
from medquant.matrices import QUANTIZABLE
from medquant.models.base import CalibrationBatch, Model
from medquant.network_edit import round_to_half, set_module, structural_twin
from medquant.observe import Observation, observe
from medquant.products import linear
from medquant.progress import Progress
from medquant.quantized_model import LayerReport
from medquant.recipe import Recipe
from medquant.rewrites.apply import rewrite_network
from medquant.rewrites.settings import INNER, plain_name
from medquant.rounding import round_layer
from medquant.shared_inputs import SeenInputs

SOLVING = 2
"""Time that solving takes, in passes of the network for each calibration input; for the estimate of the time left."""


class QuantizationRun:
    """Quantizes a twin of a model's network, layer by layer; the model stays as it is."""

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
        self.rewritten: dict[str, str] = {}
        """What was done to layers before they are quantized."""
        self.quantized: dict[str, QuantizedLayer] = {}
        self.frugal: frozenset[str] = frozenset()
        self.seconds: dict[str, float] = {}
        self.finished = 0
        """Layers that are done."""
        self.seen: Observation | None = None
        self.seen_inputs = SeenInputs()
        self.focus: list[torch.Tensor | None] = [batch.focus for batch in batches]

    def run(self) -> None:
        """Quantize every layer and put it in its place."""
        jobs = self.prepare()
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

    def prepare(self) -> dict[str, LayerJob]:
        """What there is to do: norms folded, layers and their grids chosen, inputs that fit, the foreground found."""
        seen = self.seen = self._timed("first pass", self._observe)
        if self.recipe.fold_batch_norm:
            fold_batch_norms(self.network, seen, lambda: self._forward(self.batches[0]))
        if self.recipe.rewrites:
            seen = self.seen = self._timed("rewriting", self._rewrite, seen)
        jobs, self.kept = layer_jobs(self.network, seen, self.recipe, self.ignore)
        if not jobs:
            raise UserError("No layer is left to quantize. Give fewer patterns to ignore.")
        self._plan(jobs, seen)
        round_to_half(self.network, except_for=jobs)
        self._timed("foreground", self._find_focus, seen)
        return jobs

    def _rewrite(self, seen: Observation) -> Observation:
        """Rewrite the layers that the recipe names. Returns what is seen of the network afterwards."""
        jobs, _ = layer_jobs(self.network, seen, self.recipe, self.ignore)
        asked = self.recipe.rewrites_for(list(jobs))
        if not asked:
            return seen
        self.tracker.report(0.0, "Rewriting layers")
        if self.focus[0] is None and self.recipe.calibration.foreground_share > 0:
            self.focus[0] = self._foreground(seen.output)

        def samples_of(job: LayerJob, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return input_samples(job, [inputs], self.focus_of, self.recipe.calibration)

        forwards = [partial(self._forward, batch) for batch in self.batches]
        self.rewritten = rewrite_network(self.network, jobs, asked, forwards, seen.output, samples_of)
        found = self._observe()
        names = {plain_name(name): name for name in found.order if name.endswith(f".{INNER}")}
        found.batch_norms |= {names.get(layer, layer): norm for layer, norm in seen.batch_norms.items()}
        return found

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
                self.focus[number] = self._foreground(logits)
                if self.focus[number] is None:
                    return

    def _foreground(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Where the FP32 network sees something, and around it; None for an output without places."""
        found = self.model.foreground(logits)
        return None if found.ndim < 2 else dilate(found, max(2, max(found.shape[1:]) // 32)).float()

    def _sequential(self, jobs: dict[str, LayerJob]) -> None:
        count = len(self.batches)
        total = sum(job.weight.numel() for job in jobs.values())
        done = 0

        def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
            nonlocal done
            job = jobs[name]
            self._announce(len(jobs), done / total)
            full, quantized = inputs[:count], inputs[count:]
            # Before the first quantized layer both networks see the same: no correction, half the work.
            same = all(a is b or torch.equal(a, b) for a, b in zip(full, quantized))
            self._solve(job, quantized, None if same else full)
            self.finished += 1
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
            self._announce(len(jobs), self.finished / len(jobs))
            self._solve(job, inputs, None)
            self.finished += 1
            return [job.full] * len(inputs)

        runs = [lambda batch=batch: self._forward(batch) for batch in self.batches]
        modules = dict(self.network.named_modules())
        run_in_lockstep({name: modules[name] for name in jobs}, runs, at_layer)

    def _solve(self, job: LayerJob, inputs: list[torch.Tensor], full: list[torch.Tensor] | None) -> None:
        self.quantized[job.name], self.reports[job.name] = self.solved(job, inputs, full)

    def focus_of(self, job: LayerJob, number: int, grid: tuple[int, ...]) -> torch.Tensor | None:
        """How the foreground of a calibration input falls on the rows of a layer."""
        return self.model.row_focus(plain_name(job.name), job.module, grid, self.focus[number])

    def solved(
        self, job: LayerJob, inputs: list[torch.Tensor], full: list[torch.Tensor] | None
    ) -> tuple[QuantizedLayer, LayerReport]:
        """One layer that gets `inputs`, and would get `full` in the FP32 network (None: the same)."""
        if job.activations is not None and full is None:
            full = inputs  # rounding its input, the layer gets something else even where nothing before it is quantized
        if not all(bool(torch.isfinite(one).all()) for one in inputs):
            raise UserError(
                f"Layer {job.name} gets values that are not finite on the calibration inputs. Check the preprocessing, "
                "or choose other slices."
            )
        input_grid = self.input_grid(job, inputs)
        target = input_grid.job(job)
        if not self.recipe.needs_moments:
            layer, report = round_layer(target, inputs, self.focus_of, self.recipe, input_grid, self.tracker.check)
        else:
            moments = self.moments(target, inputs, full, input_grid)
            layer, report = quantize_layer(target, moments, self.recipe, self.tracker.check)
        input_grid.give_to(layer)
        return layer, report

    def input_grid(self, job: LayerJob, inputs: list[torch.Tensor]) -> InputGrid:
        """Where the integers of a layer's input lie."""
        joins = job.activations is not None and job.geometry.kind.startswith("Conv")
        shared = self.seen_inputs.part_of(inputs[0]) if joins else None
        found = fit_input(job, inputs, self.focus_of, self.recipe.calibration, shared)
        if joins:
            self.seen_inputs.add(inputs[0], found)
        return found

    def moments(
        self,
        job: LayerJob,
        inputs: list[torch.Tensor],
        full: list[torch.Tensor] | None,
        input_grid: InputGrid,
    ) -> list[tuple[Moments, Moments]]:
        """Second moments of what a layer gets."""
        plenty = job.name not in self.frugal
        return collect_moments(
            job,
            inputs,
            full if plenty else None,
            self.focus_of,
            self.recipe,
            self.tracker.check,
            halves=plenty,
            input_grid=input_grid,
        )

    def _announce(self, count: int, fraction: float) -> None:
        ready = self._done(len(self.batches))
        self.tracker.report(ready + (1 - ready) * fraction, f"Quantizing layer {self.finished + 1} of {count}")

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
