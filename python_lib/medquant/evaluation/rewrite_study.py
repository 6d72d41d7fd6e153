"""What rewrites that keep the function are worth: the same model rounded with and without each of them.

MedQuanBench, Tables 4 and 12, finds that smoothing, low rank and rotation gain little on medical networks. Here each is
tried on the layers that rounding harms most, each of them rounded alone; on the worst of them with the whole network
rounded, the place that the paper's tables have; and on all layers. How is rounded is the paper's where a granularity of
`published_recipes` is asked for, else the product's.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.calibration_inputs import calibration_inputs
from medquant.errors import UserError
from medquant.granularity import PerTensor
from medquant.imaging.volume import Volume
from medquant.layers import decoded_once
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model
from medquant.network_edit import stoppable
from medquant.products import quick_linears
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.published_recipes import published
from medquant.quantize import quantize
from medquant.recipe import CalibrationSettings, IntWeights, Method, Recipe
from medquant.rewrites.settings import RANK, LowRank, Rewrites, Rotation, Smoothing, plain_name
from medquant.sensitivity.change import Change, Expected
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding, TrialRun, exchanged

NONE, OWN, AS_LARGE = "none", "the recipe's own factors", "none, as large as low rank"
LOW_RANK = f"low rank {RANK}"
VARIANTS: dict[str, Rewrites | None] = {
    NONE: None,
    "smoothing 0.5": Rewrites(smoothing=Smoothing()),
    "smoothing, searched": Rewrites(smoothing=Smoothing(None)),
    LOW_RANK: Rewrites(low_rank=LowRank()),
    "smoothing 0.5, low rank 4": Rewrites(smoothing=Smoothing(), low_rank=LowRank()),
    "rotation 32": Rewrites(rotation=Rotation()),
    "equalization": Rewrites(equalization=True),
}
"""With the paper's alpha, rank and order of the Hadamard matrix (appendix B). The paper searches no alpha, and tries
neither low rank by itself nor equalization. In addition, where inputs have one scale, `OWN`:
`IntActivations.equalize`, on in the product and off in the others here; and `AS_LARGE`: the bits that the branches
take, spent on the weights."""


MOST_EXTRA_BITS = 6.0
"""That a recipe takes."""


@dataclass(frozen=True)
class RewriteEffect:
    """One rewrite in one place."""

    variant: str
    layer: str
    """The layer that was rewritten; empty: all layers."""
    alone: bool
    """Whether only this layer was rounded; else the whole network was."""
    change: Change
    """Of the network's output, against FP32."""
    output_error: float | None = None
    """||y_q - y|| / ||y|| of this layer's own output, where it was rounded alone."""
    effective_bits: float | None = None
    """Of the whole model, where all of it was rounded."""
    done: str = ""
    """What the rewrite did to the layer, or why it did nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        told = asdict(self)
        return told | told.pop("change")


@dataclass(frozen=True)
class RewriteStudy:
    """What was found."""

    rounding: str
    """ "W4A4"."""
    layers: tuple[str, ...]
    """Those that rounding alone harms most, the worst first."""
    effects: tuple[RewriteEffect, ...]

    def whole(self, layer: str = "") -> dict[str, RewriteEffect]:
        """By variant, with the whole network rounded and `layer` (empty: all layers) rewritten."""
        return {one.variant: one for one in self.effects if not one.alone and one.layer == layer}

    def of(self, layer: str) -> dict[str, RewriteEffect]:
        """By variant, with this layer alone rounded."""
        return {one.variant: one for one in self.effects if one.alone and one.layer == layer}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        effects = [one.to_dict() for one in self.effects]
        return {"rounding": self.rounding, "layers": list(self.layers), "effects": effects}


def recipe_of_study(
    bits: int = 4, activations: int | None = None, method: Method = "rtn", granularity: str | None = None
) -> Recipe:
    """The recipe in which rewrites are compared: without a solver unless asked for, without factors of its own.

    `activations`: bits of the inputs, None: in floating point. `granularity`: one of `published_recipes.PUBLISHED`, all
    else as in MedQuanBench too; None: the product's settings. Raises `UserError`.
    """
    if granularity is not None:
        recipe = published(bits, granularity, method)
        return replace(recipe, activations=replace(recipe.activations, bits=activations) if activations else None)
    return Recipe(
        weights=IntWeights(bits=bits),
        method=method,
        activations=IntActivations(bits=activations, equalize=False) if activations else None,
        calibration=CalibrationSettings(sequential=method != "rtn"),
    )


def study_rewrites(
    model: Model,
    calibration: Volume | Sequence[Volume] | Sequence[CalibrationBatch],
    *,
    recipe: Recipe | None = None,
    most: int = 3,
    selection: CalibrationSelection | None = None,
    measured_on: Sequence[CalibrationBatch] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> RewriteStudy:
    """Round the model by `recipe` (None: W4A4 to the nearest level) with every one of `VARIANTS`.

    `most` layers are looked at by themselves: those whose rounding alone changes the network's output most. Effects are
    measured on `measured_on` (None: every other of the calibration inputs, which then does not calibrate). `model`
    stays as it is. Raises `UserError` where there is one input only and nothing else to measure on.
    """
    tracker = Progress(progress, cancelled)
    recipe = recipe or recipe_of_study(4, 4)
    batches, _ = calibration_inputs(model, calibration, selection or CalibrationSelection(count=2), tracker)
    if measured_on is None:
        if len(batches) < 2:
            raise UserError("One input cannot calibrate and measure. Choose at least two slices or patches.")
        batches, measured_on = batches[::2], batches[1::2]
    rounding = Rounding(recipe.weights.bits, recipe.activations and recipe.activations.bits)
    found = sensitivity(
        model, batches, roundings=(rounding,), recipe=recipe, measured_on=measured_on[:1],
        **tracker.span(0.02, 0.25).callbacks("Sensitivity"),
    )  # fmt: skip
    study = _Study(model, batches, measured_on, rounding, found.layers, found.worst(most))
    variants = variants_of(recipe)
    for number, (variant, chosen) in enumerate(variants.items()):
        part = tracker.span(0.25 + 0.7 * number / len(variants), 0.25 + 0.7 * (number + 1) / len(variants))
        study.alone(variant, chosen, part.span(0.0, 0.3))
        study.whole(variant, chosen, found.worst(1)[0], part.span(0.3, 0.65))
        study.whole(variant, chosen, "", part.span(0.65, 1.0))
    rows = {one.variant: one for one in study.effects if not one.alone and not one.layer}
    if LOW_RANK in rows:
        more = max(0.0, rows[LOW_RANK].effective_bits - rows[NONE].effective_bits)
        larger = replace(recipe, extra_bits=min(recipe.extra_bits + more, MOST_EXTRA_BITS))
        study.whole(AS_LARGE, (larger, None), "", tracker.span(0.95, 1.0))
    tracker.report(1.0, "Compared")
    return RewriteStudy(rounding.label, found.worst(most), tuple(study.effects))


def variants_of(recipe: Recipe) -> dict[str, tuple[Recipe, Rewrites | None]]:
    """The recipe of each variant, and what it rewrites; the first is `NONE`."""
    variants = {name: (recipe, wanted) for name, wanted in VARIANTS.items()}
    if recipe.activations is not None and isinstance(recipe.activations.granularity, PerTensor):
        variants[OWN] = replace(recipe, activations=replace(recipe.activations, equalize=True)), None
    return variants


class _Study:
    """A model rounded in one way, with layers rewritten in several."""

    def __init__(
        self,
        model: Model,
        batches: Sequence[CalibrationBatch],
        measured_on: Sequence[CalibrationBatch],
        rounding: Rounding,
        all_layers: Sequence[str],
        layers: Sequence[str],
    ) -> None:
        self._model, self._batches, self._measured = model, list(batches), list(measured_on)
        self._rounding, self._layers = rounding, tuple(layers)
        self._others = [glob.escape(name) for name in all_layers if name not in layers]
        self._expected = [Expected(o, exclusive=model.exclusive(o)) for o in self._outputs(model.network)]
        self.effects: list[RewriteEffect] = []

    def alone(self, variant: str, chosen: tuple[Recipe, Rewrites | None], tracker: Progress) -> None:
        """Each of the layers rounded by itself, rewritten."""
        tracker.report(0.0, f"{variant}: layers by themselves")
        recipe = replace(chosen[0], rewrites={"*": chosen[1]})
        run = TrialRun(self._model, self._batches, recipe, (self._rounding,), self._others, None, tracker)
        with stoppable(run.network, tracker.check), quick_linears(run.network), torch.inference_mode():
            run.run()
            names = {plain_name(name): name for name in run.jobs}
            with _outputs_of(run.network, self._layers) as full:
                expected = [Expected(o, exclusive=self._model.exclusive(o)) for o in self._outputs(run.network)]
            for layer in self._layers:
                rounded = {names[layer]: run.trials[self._rounding][names[layer]].module}
                with exchanged(run.network, rounded), _outputs_of(run.network, (layer,)) as own:
                    outputs = self._outputs(run.network)
                    change = Change.mean([e.change(o) for e, o in zip(expected, outputs, strict=True)])
                error = _relative(own[layer], full[layer])
                told = run.rewritten.get(layer, "")
                self.effects.append(RewriteEffect(variant, layer, True, change, error, None, told))

    def whole(self, variant: str, chosen: tuple[Recipe, Rewrites | None], layer: str, tracker: Progress) -> None:
        """The whole network rounded, with one layer (empty: all layers) rewritten."""
        pattern = glob.escape(layer) if layer else "*"
        recipe = replace(chosen[0], rewrites={pattern: chosen[1]})
        made = quantize(self._model, self._batches, recipe=recipe, **tracker.callbacks(variant))
        with decoded_once(made.model.network):
            outputs = self._outputs(made.model.network)
            change = Change.mean([e.change(o) for e, o in zip(self._expected, outputs, strict=True)])
        told, bits = made.report.rewritten.get(layer, ""), made.report.effective_bits
        self.effects.append(RewriteEffect(variant, layer, False, change, None, bits, told))

    def _outputs(self, network: nn.Module) -> Iterator[torch.Tensor]:
        for batch in self._measured:
            with torch.inference_mode():
                yield self._model.forward_for_calibration(network, *batch.inputs)


@contextmanager
def _outputs_of(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Inside, what each layer gives at each of its calls is kept."""
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, _a, output, to=to: to.append(output.clone()))
        for name, to in kept.items()
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _relative(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    squared = sum(float((a - b).double().square().sum()) for a, b in zip(found, expected, strict=True))
    return (squared / max(sum(float(one.double().square().sum()) for one in expected), 1e-30)) ** 0.5
