"""What quantization costs in accuracy, on a real 3-D network with public weights and on real scans.

Protocol: calibrated on one unlabelled CT (`ct_calibration_dicom`), tested on another (`ct_abdomen_3mm`). Mean Dice over
the organs that are there and that the FP32 network itself finds (Dice above .5 against the reference), against the FP32
masks and against the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medquant.activation_settings import IntActivations
from medquant.bench.allconvunet import ORGANS, AllConvUNet, box_around, load, to_cube, to_network_axes
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.program import runs_on_integers
from medquant.errors import UserError
from medquant.granularity import Adaptive, PerChannel, PerGroup, PerTensor, PerToken, granularity_name
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part
from medquant.models.body import body_mask
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.prompts import BoxPrompt
from medquant.quantize import quantize
from medquant.recipe import METHODS, CalibrationSettings, IntWeights, Recipe
from medquant.segmentation import Segmentation

REFERENCE_LABELS = {1: 1, 7: 2, 3: 3, 4: 4, 15: 5, 5: 6, 6: 7, 19: 8}
"""Label in the reference of `ct_abdomen_3mm` -> label of the network."""
BOXED = (1, 2, 3, 4, 6, 7)
"""Organs whose common bounding box, with a margin, is what the network sees."""
MARGIN = (6, 4, 2)
CROPS = (
    ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
    ((0.06, 0.94), (0.08, 0.92), (0.0, 0.85)),
    ((0.0, 0.9), (0.1, 1.0), (0.15, 1.0)),
    ((0.1, 1.0), (0.0, 0.9), (0.05, 0.95)),
    ((0.05, 0.85), (0.05, 1.0), (0.1, 0.9)),
    ((0.15, 0.95), (0.1, 0.95), (0.0, 0.75)),
)
"""Parts of the body's bounding box that serve as calibration inputs, along the network's three axes."""
PLAIN = CalibrationSettings(sequential=False, foreground_share=0.0, centred=False, shrink=False)
"""No more than a solver needs: evenly drawn positions, raw moments, the FP32 network's inputs."""
SETTINGS = ("default", "uniform", "plain")


class _Bench(Model):
    """The network alone: this benchmark prepares its inputs itself."""

    family = "allconvunet"

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Model:
        raise UserError("This network belongs to the benchmark. Run `medquant bench quality`.")

    @classmethod
    def load(cls, source: str | Path, **_options: Any) -> Model:
        source = Path(source)
        if not source.is_file():
            raise UserError(f"There are no weights at {source}. Give the data folder with --data.")
        return cls(load(source), name=source.stem, spec={"family": cls.family}, weights_hash="")

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        body = to_network_axes(volume, body_mask(volume))
        array = to_network_axes(volume)
        whole = box_around(body, (0, 0, 0))
        for crop in CROPS[: selection.count]:
            box = tuple(
                slice(round(w.start + (w.stop - w.start) * low), round(w.start + (w.stop - w.start) * high))
                for w, (low, high) in zip(whole, crop)
            )
            yield CalibrationBatch((to_cube(array, box),))

    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        raise UserError("This network belongs to the benchmark. Run `medquant bench quality`.")


def recipes(
    methods: Sequence[str] = METHODS, bits: Sequence[int] = (8, 4, 3, 2), settings: Sequence[str] = SETTINGS
) -> Iterator[tuple[str, str, Recipe]]:
    """Settings, method and recipe of every row.

    "default": the product's calibration, extra bits and pruning, with this solver in the last step. "uniform": the
    product's calibration at the same bits in every layer. "plain": the solver alone on evenly drawn, uncentred inputs
    of the FP32 network, an integer zero point, the same bits everywhere; `permutation-comq` has groups of 64 rows.
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


def activation_recipes(bits: Sequence[int]) -> Iterator[tuple[str, str, Recipe]]:
    """Settings, method and recipe of the rows with integer activations, weights and activations of the same bits.

    "default": the product's, all of it in integer kernels. "published": MedQuanBench's three granularities as the paper
    has them: symmetric, with the range of each input, rounded to the nearest, and the same bits everywhere.
    """
    for b in bits:
        yield "default", "permutation-comq", Recipe(weights=IntWeights(b), activations=IntActivations(b))
        for grain, of_weights in ((PerTensor(), PerTensor()), (PerToken(), PerChannel()), (Adaptive(), PerChannel())):
            published = {"symmetric": True, "mode": "dynamic", "equalize": False, "dither": False}
            yield (
                "published",
                "rtn",
                Recipe(
                    weights=IntWeights(b, granularity=of_weights, symmetric=True),
                    method="rtn",
                    ends_bits=None,
                    extra_bits=0.0,
                    drop_dead_channels=False,
                    calibration=PLAIN,
                    activations=IntActivations(b, granularity=grain, **published),
                ),
            )


def run(
    *,
    data: Path,
    folds: Sequence[int] = (2, 1),
    bits: Sequence[int] = (8, 4, 3, 2),
    methods: Sequence[str] = METHODS,
    settings: Sequence[str] = SETTINGS,
    activations: Sequence[int] = (),
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """Rows of `network, method, settings, weight_bits, activation_bits, granularity, recipe, effective_bits,
    dsc_vs_fp32, dsc_vs_reference, simulated`, with the FP32 row of each fold first. Masks are those of the engine's own
    network; where integer kernels can compute it, the row has theirs as well (`dsc_by_kernels_vs_fp32`).

    With `activations`, numbers of bits, the rows are those of `activation_recipes` instead.
    `settings` and `methods` are those of `recipes`; the product's recipe is "default" with "permutation-comq". `data`
    is the folder of real scans and weights. Raises `UserError` for what is missing in it, and for an unknown choice.
    """
    for name, given, known in (("method", methods, METHODS), ("setting", settings, SETTINGS), ("fold", folds, (1, 2))):
        odd = [value for value in given if value not in known]
        if odd:
            raise UserError(f"Unknown {name} {odd[0]!r}. Choose among {', '.join(map(str, known))}.")
    data = Path(data)
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Reading the scans")
    calibration = read_volume(data / "ct_calibration_dicom" / "series")
    cube, reference = _test_case(data)
    plan = list(activation_recipes(activations) if activations else recipes(methods, bits, settings))
    rows: list[dict[str, Any]] = []
    for number, fold in enumerate(folds):
        part = tracker.span(number / len(folds), (number + 1) / len(folds))
        model = _Bench.load(data / "weights" / "allconvunet" / f"allconvunet_tcia_fold{fold}.pth")
        full = _logits(model.network, cube).argmax(1)[0]
        organs = [label for label in ORGANS if (reference == label).any() and dice(full, reference, label) > 0.5]
        rows.append(_row(model.name, "", "fp32", None, 32.0, False, full, full, reference, organs))
        for done, (how, name, recipe) in enumerate(plan):
            part.report(done / len(plan), f"Fold {fold}: {name} ({how}), {recipe.weights.bits} bits")
            quantized = quantize(
                model, calibration, recipe=recipe, selection=CalibrationSelection(count=len(CROPS)), cancelled=cancelled
            )
            logits = _logits(quantized.model.network, cube)
            found, effective = logits.argmax(1)[0], quantized.report.effective_bits
            kernels = _by_kernels(quantized.model.network, cube, logits, full, organs) if recipe.activations else {}
            simulated = not kernels
            row = _row(model.name, how, name, recipe, effective, simulated, found, full, reference, organs)
            rows.append(row | kernels)
    return rows


def _by_kernels(
    network: AllConvUNet, cube: torch.Tensor, logits: torch.Tensor, full: torch.Tensor, organs: list[int]
) -> dict[str, Any]:
    """The same masks by OpenVINO's integer kernels, FP32 around them, and how far the logits are from the engine's own.

    Nothing where OpenVINO is missing or a layer has an input that its kernels do not take.
    """
    runtime = OpenVino()
    if runtime.version() is None or not all(
        runs_on_integers(layer) for layer in network.modules() if isinstance(layer, QuantizedLayer)
    ):
        return {}
    session = runtime.compile(Part(network, {"image": cube}, ("logits",)), precision="int8", rest="fp32")
    found = session(cube)
    if session.simulated:
        return {}
    mean = float(np.mean([dice(found.argmax(1)[0], full, label) for label in organs]))
    difference = float((found - logits).norm() / logits.norm())
    return {"dsc_by_kernels_vs_fp32": mean, "logits_difference": difference, "integer_layers": session.integer_layers}


def dice(a: torch.Tensor, b: torch.Tensor, label: int) -> float:
    """Dice of one label in two label maps; 1 where neither has it."""
    inside_a, inside_b = a == label, b == label
    total = int(inside_a.sum() + inside_b.sum())
    return 2 * int((inside_a & inside_b).sum()) / total if total else 1.0


def _test_case(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's input (1, 1, 144, 144, 144) and the reference labels (144, 144, 144)."""
    volume = read_volume(data / "ct_abdomen_3mm" / "ct.nii.gz")
    labels = read_labels(data / "ct_abdomen_3mm" / "labels.nii.gz", volume).labels
    renamed = np.zeros(labels.shape, dtype=np.uint8)
    for theirs, ours in REFERENCE_LABELS.items():
        renamed[labels == theirs] = ours
    renamed = to_network_axes(volume, renamed)
    box = box_around(np.isin(renamed, BOXED), MARGIN)
    return to_cube(to_network_axes(volume), box), to_cube(renamed, box, labels=True)[0, 0].long()


def _logits(network: AllConvUNet, cube: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(cube)


def _row(
    network: str,
    settings: str,
    method: str,
    recipe: Recipe | None,
    effective_bits: float,
    simulated: bool,
    found: torch.Tensor,
    full: torch.Tensor,
    reference: torch.Tensor,
    organs: list[int],
) -> dict[str, Any]:
    per_organ = {ORGANS[label]: dice(found, full, label) for label in organs}
    return {
        "network": network,
        "method": method,
        "settings": settings,
        "weight_bits": recipe.weights.bits if recipe else 32,
        "activation_bits": recipe.activations.bits if recipe and recipe.activations else 32,
        "granularity": _granularity(recipe),
        "recipe": recipe.describe() if recipe else "",
        "effective_bits": effective_bits,
        "dsc_vs_fp32": float(np.mean(list(per_organ.values()))),
        "dsc_vs_reference": float(np.mean([dice(found, reference, label) for label in organs])),
        "dsc_vs_fp32_by_organ": per_organ,
        "simulated": simulated,
    }


def _granularity(recipe: Recipe | None) -> str:
    if recipe is None:
        return ""
    return granularity_name(recipe.activations.granularity) if recipe.activations else recipe.weights.granularity_name
