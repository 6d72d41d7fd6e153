"""What quantization costs in accuracy, on a real 3-D network with public weights and on real scans.

Calibrated on one unlabelled CT (`ct_calibration_dicom`), tested on another (`ct_abdomen_3mm`): see `organ_case`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medquant.activation_settings import IntActivations
from medquant.bench.allconvunet import ORGANS, AllConvUNet
from medquant.bench.organ_case import OrganCase, dice, logits_of
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.program import runs_on_integers
from medquant.errors import UserError
from medquant.granularity import PerGroup, granularity_name
from medquant.layers import QuantizedLayer
from medquant.mixed.float_inputs import require_share, with_float_inputs
from medquant.models.base import Part
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.published_recipes import PLAIN, PUBLISHED, published
from medquant.quantize import quantize
from medquant.recipe import METHODS, IntWeights, Recipe

SETTINGS = ("default", "unpruned", "plain")
FLOAT_INPUTS = "float inputs"
FLOAT_SHARE = 0.15
"""Of the multiplications, whose inputs stay in floating point where activations are integers; 0: none."""


def recipes(
    methods: Sequence[str] = METHODS, bits: Sequence[int] = (8, 4, 3, 2), settings: Sequence[str] = SETTINGS
) -> Iterator[tuple[str, str, Recipe]]:
    """Settings, method and recipe of every row.

    "default": the product's calibration, extra bits and pruning, with this solver in the last step. "unpruned": the
    product's calibration at the same bits in every layer, and no channel left out. "plain": the solver alone on evenly
    drawn, uncentred inputs of the FP32 network, an integer zero point, the same bits everywhere, all channels;
    `permutation-comq` has groups of 64 rows.
    """
    for b in bits:
        for how in settings:
            for method in methods:
                recipe = Recipe(weights=IntWeights(b), method=method)
                if how != "default":
                    recipe = replace(recipe, ends_bits=None, extra_bits=0.0, drop_dead_channels=False)
                if how == "plain":
                    grouped = {"granularity": PerGroup(64)} if method == "permutation-comq" else {}
                    integer = IntWeights(b, zero_point="integer", **grouped)
                    recipe = replace(recipe, weights=integer, calibration=PLAIN)
                yield how, method, recipe


def activation_recipes(bits: Sequence[int], float_share: float = FLOAT_SHARE) -> Iterator[tuple[str, str, Recipe]]:
    """Settings, method and recipe of the rows with integer activations, weights and activations of the same bits.

    "default": the product's, all of it in integer kernels. "float inputs": the same with `float_share` of the
    arithmetic in floating point (`run` chooses where; none with 0). "published": MedQuanBench's three granularities.
    """
    for b in bits:
        default = Recipe(weights=IntWeights(b), activations=IntActivations(b))
        yield "default", "permutation-comq", default
        if float_share:
            yield FLOAT_INPUTS, "permutation-comq", default
        for granularity in PUBLISHED:
            yield "published", "rtn", published(b, granularity)


def run(
    *,
    data: Path,
    folds: Sequence[int] = (2, 1),
    bits: Sequence[int] = (8, 4, 3, 2),
    methods: Sequence[str] = METHODS,
    settings: Sequence[str] = SETTINGS,
    activations: Sequence[int] = (),
    float_share: float = FLOAT_SHARE,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """Rows of `network, method, settings, weight_bits, activation_bits, granularity, recipe, effective_bits,
    dsc_vs_fp32, dsc_vs_reference, simulated`, with the FP32 row of each fold first. Masks are those of the engine's own
    network; where integer kernels can compute it, the row has theirs as well (`dsc_by_kernels_vs_fp32`). Rows with
    integer activations have `layers`, and `floating_layers`, whose inputs stay in floating point.

    With `activations`, numbers of bits, the rows are those of `activation_recipes` with `float_share` instead.
    `settings` and `methods` are those of `recipes`; the product's recipe is "default" with "permutation-comq". `data`
    is the folder of real scans and weights. Raises `UserError` for what is missing in it, and for an unknown choice.
    """
    for name, given, known in (("method", methods, METHODS), ("setting", settings, SETTINGS), ("fold", folds, (1, 2))):
        odd = [value for value in given if value not in known]
        if odd:
            raise UserError(f"Unknown {name} {odd[0]!r}. Choose among {', '.join(map(str, known))}.")
    plan = list(activation_recipes(activations, float_share) if activations else recipes(methods, bits, settings))
    for how, _, recipe in plan:
        if how == FLOAT_INPUTS:
            require_share(recipe, float_share)
    data = Path(data)
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Reading the scans")
    rows: list[dict[str, Any]] = []
    for number, (fold, case) in enumerate(zip(folds, OrganCase.all(data, folds), strict=True)):
        part = tracker.span(number / len(folds), (number + 1) / len(folds))
        rows.append(_row(case, "", "fp32", None, 32.0, False, case.full))
        batches = case.batches()
        for done, (how, name, recipe) in enumerate(plan):
            title = f"Fold {fold}: {name} ({how}), {recipe.weights.bits} bits"
            row, start = part.span(done / len(plan), (done + 1) / len(plan)), 0.0
            if how == FLOAT_INPUTS:
                start = 0.4
                told = row.span(0.0, start).callbacks(title)
                recipe = with_float_inputs(case.model, batches, recipe=recipe, share=float_share, **told)
            told = row.span(start, 1.0).callbacks(title)
            quantized = quantize(case.model, batches, recipe=recipe, **told)
            logits = logits_of(quantized.model.network, case.cube)
            found, effective = logits.argmax(1)[0], quantized.report.effective_bits
            kernels = _by_kernels(quantized.model.network, case, logits) if recipe.activations else {}
            counted = _floating(quantized.model.network) if recipe.activations else {}
            rows.append(_row(case, how, name, recipe, effective, not kernels, found) | kernels | counted)
    return rows


def _floating(network: AllConvUNet) -> dict[str, int]:
    """How many quantized layers there are, and how many of them have their input in floating point."""
    layers = [layer for layer in network.modules() if isinstance(layer, QuantizedLayer)]
    return {"layers": len(layers), "floating_layers": sum(layer.input_quantizer is None for layer in layers)}


def _by_kernels(network: AllConvUNet, case: OrganCase, logits: torch.Tensor) -> dict[str, Any]:
    """The same masks by OpenVINO's integer kernels, FP32 around them, and how far the logits are from the engine's own.

    Nothing where OpenVINO is missing or a layer has an input that its kernels do not take.
    """
    runtime = OpenVino()
    if runtime.version() is None or not all(
        runs_on_integers(layer) or layer.input_quantizer is None
        for layer in network.modules()
        if isinstance(layer, QuantizedLayer)
    ):
        return {}
    session = runtime.compile(Part(network, {"image": case.cube}, ("logits",)), precision="int8", rest="fp32")
    found = session(case.cube)
    if session.simulated:
        return {}
    mean = case.mean_dice(found.argmax(1)[0], case.full)
    difference = float((found - logits).norm() / logits.norm())
    return {"dsc_by_kernels_vs_fp32": mean, "logits_difference": difference, "integer_layers": session.integer_layers}


def _row(
    case: OrganCase,
    settings: str,
    method: str,
    recipe: Recipe | None,
    effective_bits: float,
    simulated: bool,
    found: torch.Tensor,
) -> dict[str, Any]:
    per_organ = {ORGANS[label]: dice(found, case.full, label) for label in case.organs}
    return {
        "network": case.model.name,
        "method": method,
        "settings": settings,
        "weight_bits": recipe.weights.bits if recipe else 32,
        "activation_bits": recipe.activations.bits if recipe and recipe.activations else 32,
        "granularity": _granularity(recipe),
        "recipe": recipe.describe() if recipe else "",
        "effective_bits": effective_bits,
        "dsc_vs_fp32": case.mean_dice(found, case.full),
        "dsc_vs_reference": case.mean_dice(found, case.reference),
        "dsc_vs_fp32_by_organ": per_organ,
        "simulated": simulated,
    }


def _granularity(recipe: Recipe | None) -> str:
    if recipe is None:
        return ""
    return granularity_name(recipe.activations.granularity) if recipe.activations else recipe.weights.granularity_name
