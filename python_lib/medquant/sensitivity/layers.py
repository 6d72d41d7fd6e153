"""Which layers break first: each rounded by itself, given back by itself, or judged by its own output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.jobs import LayerJob
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.network_edit import stoppable
from medquant.products import quick_linears
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.recipe import Recipe
from medquant.sensitivity.change import Change, Expected
from medquant.sensitivity.effects import LayerEffect, SensitivityMap, View, views_of
from medquant.sensitivity.replay import Replay
from medquant.sensitivity.trials import Rounding, Trial, TrialRun, exchanged

ROUNDINGS = (Rounding(2), Rounding(4), Rounding(8))


def sensitivity(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    roundings: Sequence[Rounding] = ROUNDINGS,
    views: Sequence[View] = ("one-at-a-time",),
    recipe: Recipe | None = None,
    selection: CalibrationSelection | None = None,
    measured_on: Sequence[CalibrationBatch] | None = None,
    references: Sequence[torch.Tensor | None] | None = None,
    ignore: Sequence[str] = (),
    max_memory_mb: float | None = None,
    partial: Callable[[LayerEffect], None] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> SensitivityMap:
    """Measure what rounding each layer does to the network's output.

    Every layer is rounded once for each of `roundings` on the FP32 network's inputs, by the method, granularity and
    calibration of `recipe` (None: to the nearest level, which takes no solver and ranks layers well). The views are
    those of MedQuanBench, Fig. 3 and Table 11: "one-at-a-time" rounds a layer alone; "incremental" rounds all but a
    layer, and all but a type of layers, and tells what giving it back is worth; "proxy" is the error of the layer's own
    output and takes no pass of the rest. Passes begin where something has changed, and are those of `measured_on`
    (None: of the calibration inputs); a solver fits its own inputs better than others, so others tell the truth.
    `references` has labels for each of these inputs, or None (see `Expected`): then effects on the Dice against them
    are told too. Each effect goes to `partial` as soon as it is known: of "proxy" layer by layer, then one view after
    the other, the fewest bits first. `model` stays as it is. Raises `UserError` where nothing can be calibrated with,
    `Cancelled` when stopped.
    """
    views = views_of(views)
    if not roundings:
        raise UserError("Nothing is asked for. Give bits.")
    tracker = Progress(progress, cancelled)
    roundings = tuple(sorted(set(roundings), key=lambda r: (r.weights or 9, r.activations or 9)))
    batches, _ = calibration_inputs(model, calibration, selection or CalibrationSelection(count=1), tracker)
    passes_follow = set(views) != {"proxy"}
    trying = tracker.span(0.03, 0.25 if passes_follow else 1.0)
    run = TrialRun(model, batches, recipe or Recipe(method="rtn"), roundings, ignore, max_memory_mb, trying)
    inputs = list(batches if measured_on is None else measured_on)
    if references is not None and len(references) != len(inputs):
        raise UserError(f"{len(references)} references do not fit {len(inputs)} inputs. Give one for each, or None.")
    with stoppable(run.network, tracker.check), quick_linears(run.network), torch.inference_mode():
        study = _Study(run, inputs, references or [None] * len(inputs), partial)
        if "proxy" in views:
            run.tried = study.proxy
        run.run()
        if passes_follow:
            study.measure(views, tracker.span(0.25, 1.0))
    tracker.report(1.0, "Measured")
    return SensitivityMap(
        tuple(run.jobs),
        roundings,
        tuple(study.cells),
        tuple(study.types),
        tuple(study.whole.items()),
        study.fp32_vs_reference,
    )


class _Study:
    """The layers of a trial run in and out of its network."""

    def __init__(
        self,
        run: TrialRun,
        inputs: Sequence[CalibrationBatch],
        references: Sequence[torch.Tensor | None],
        partial: Callable[[LayerEffect], None] | None,
    ) -> None:
        self._run, self._inputs, self._references, self._partial = run, inputs, references, partial
        self.cells: list[LayerEffect] = []
        self.types: list[LayerEffect] = []
        self.whole: dict[Rounding, Change] = {}
        self.fp32_vs_reference: float | None = None

    @cached_property
    def _weights(self) -> int:
        return sum(job.weight.numel() for job in self._run.jobs.values())

    def proxy(self, name: str, rounding: Rounding, trial: Trial) -> None:
        """The error of a layer's own output."""
        self._tell(self._cell(name, rounding, "proxy", trial.relative_error))

    def measure(self, views: Sequence[View], tracker: Progress) -> None:
        """Passes of the network with layers exchanged; those of one view are let go of before others are kept."""
        tracker.report(0.0, "Looking at the network")
        passes, model = self._passes(), self._run.model
        outputs = zip((one.record() for one in passes), self._references, strict=True)
        expected = [Expected(o, exclusive=model.exclusive(o), reference=labels) for o, labels in outputs]
        known = [one.dsc_vs_reference for one in expected if one.dsc_vs_reference is not None]
        self.fp32_vs_reference = sum(known) / len(known) if known else None
        alone, given_back = "one-at-a-time" in views, "incremental" in views
        if alone:
            self._round_alone(passes, expected, tracker.span(0.0, 0.5 if given_back else 1.0))
        del passes
        if given_back:
            spans = _parts(tracker.span(0.5 if alone else 0.0, 1.0), len(self._run.trials))
            for (rounding, layers), part in zip(self._run.trials.items(), spans, strict=True):
                part.report(0.0, f"{rounding.label}: all layers")
                with exchanged(self._run.network, {name: trial.module for name, trial in layers.items()}):
                    self._give_back(rounding, expected, part)

    def _round_alone(self, passes: list[_Pass], expected: list[Expected], tracker: Progress) -> None:
        trials = self._run.trials
        for (rounding, layers), part in zip(trials.items(), _parts(tracker, len(trials)), strict=True):
            for name in self._order(passes, part, f"{rounding.label}: only layer"):
                with exchanged(self._run.network, {name: layers[name].module}):
                    change = _mean(expected, (one.again(name) for one in passes))
                against = _difference(self.fp32_vs_reference, change.dsc_vs_reference)
                losses = change.error, change, 1 - change.dsc, against
                self._tell(self._cell(name, rounding, "one-at-a-time", *losses))

    def _give_back(self, rounding: Rounding, expected: list[Expected], tracker: Progress) -> None:
        network, jobs = self._run.network, self._run.jobs
        passes = self._passes()
        whole = self.whole[rounding] = _mean(expected, (one.record() for one in passes))
        by_type: dict[str, dict[str, nn.Module]] = {}
        for name, job in jobs.items():
            by_type.setdefault(type_of(job), {})[name] = _Full(job)

        def gains(change: Change) -> tuple[float, Change, float, float | None]:
            against = _difference(change.dsc_vs_reference, whole.dsc_vs_reference)
            return whole.error - change.error, change, change.dsc - whole.dsc, against

        layers = sum(passes[0].replay.part_of_a_pass(name) for name in jobs)
        types = len(by_type) / (len(by_type) + layers)
        for (kind, given), part in zip(by_type.items(), _parts(tracker.span(0.0, types), len(by_type)), strict=True):
            part.report(0.0, f"{rounding.label}: all but {kind}")
            with exchanged(network, given):
                effect, *rest, against = gains(_mean(expected, (one.whole() for one in passes)))
            share = sum(jobs[name].weight.numel() for name in given) / self._weights
            about = LayerEffect(kind, kind, (), share, rounding, "incremental", effect, *rest)
            self.types.append(replace(about, reference_loss=against))
        for name in self._order(passes, tracker.span(types, 1.0), f"{rounding.label}: all but layer"):
            with exchanged(network, {name: _Full(jobs[name])}):
                change = _mean(expected, (one.again(name) for one in passes))
            self._tell(self._cell(name, rounding, "incremental", *gains(change)))

    def _passes(self) -> list[_Pass]:
        return [_Pass(self._run, batch, len(self._inputs)) for batch in self._inputs]

    def _order(self, passes: list[_Pass], tracker: Progress, words: str) -> Iterator[str]:
        """The layers in the order of the network, each announced by what it costs."""
        jobs = self._run.jobs
        costs = {name: passes[0].replay.part_of_a_pass(name) for name in jobs}
        whole, done = sum(costs.values()), 0.0
        for number, (name, cost) in enumerate(costs.items(), 1):
            tracker.report(done / whole, f"{words} {number} of {len(jobs)}")
            yield name
            done += cost

    def _cell(
        self,
        name: str,
        rounding: Rounding,
        view: View,
        effect: float,
        change: Change | None = None,
        dsc_loss: float | None = None,
        reference_loss: float | None = None,
    ) -> LayerEffect:
        job = self._run.jobs[name]
        shape, share = tuple(job.weight.shape), job.weight.numel() / self._weights
        stored = self._run.trials[rounding][name].stored_bits
        losses = effect, change, dsc_loss, stored, reference_loss
        return LayerEffect(name, job.geometry.kind, shape, share, rounding, view, *losses)

    def _tell(self, cell: LayerEffect) -> None:
        self.cells.append(cell)
        if self._partial is not None:
            self._partial(cell)


def _mean(expected: Sequence[Expected], found: Iterable[torch.Tensor]) -> Change:
    return Change.mean([one.change(output) for one, output in zip(expected, found, strict=True)])


def _parts(tracker: Progress, count: int) -> list[Progress]:
    return [tracker.span(number / count, (number + 1) / count) for number in range(count)]


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


class _Pass:
    """One input, of so many, on its way through the network as it stands."""

    def __init__(self, run: TrialRun, batch: CalibrationBatch, of: int) -> None:
        self.replay = Replay(run.network, among=of)
        self.whole = lambda: run.model.forward_for_calibration(run.network, *batch.inputs)

    def record(self) -> torch.Tensor:
        return self.replay.record(self.whole)

    def again(self, layer: str) -> torch.Tensor:
        return self.replay.again(layer, self.whole)


@dataclass(eq=False)
class _Full:
    """A layer as it was."""

    job: LayerJob

    def forward(self, input: torch.Tensor, output_size: object = None) -> torch.Tensor:
        return self.job.full(input, output_size)


def type_of(job: LayerJob) -> str:
    """What kind of layer this is, as MedQuanBench's Table 11 groups them: "Conv3d 3x3x3", "Linear attention"."""
    if job.geometry.kind != "Linear":
        depthwise = " depth-wise" if 1 < job.geometry.groups == job.geometry.weight_shape[0] else ""
        return f"{job.geometry.kind} {'x'.join(map(str, job.geometry.weight_shape[2:]))}{depthwise}"
    parts = job.name.lower().replace("_", ".").split(".")
    if any(part in ("attn", "attention", "qkv", "proj", "msa") or part.endswith("attn") for part in parts):
        return "Linear attention"
    return "Linear MLP" if any(part.startswith(("mlp", "ffn", "linear", "fc", "lin")) for part in parts) else "Linear"
