"""One cell: quantize, segment, score. Runs in any process on any machine that sees the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import medquant
from medquant.bench.networks import torch_threads
from medquant.bench.reference_boxes import segment_each
from medquant.deploy.accelerate import accelerate
from medquant.deploy.machine import Machine
from medquant.deploy.program import runs_on_integers
from medquant.deploy.runtime import RUNTIMES
from medquant.errors import UserError
from medquant.evaluation.metrics import agreement
from medquant.evaluation.structures import joint_mask, matched_by_number, matches
from medquant.imaging.volume import Volume
from medquant.layers import QuantizedLayer
from medquant.matrices import is_quantizable
from medquant.models.base import CalibrationSelection, Model
from medquant.models.registry import choose_device
from medquant.progress import Progress
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.segment import segment
from medquant.segmentation import Execution, Fallback, Segmentation

if TYPE_CHECKING:
    from medquant.bench.medquanbench.plan import Cell

TOLERANCE_MM = 2.0
"""Of the normalized surface Dice."""
TIMED_PASSES, TIMING_SECONDS = 3, 10.0
"""Passes that a latency is the median of, after one that does not count; where that one took so long, it is the only
one."""


def run_cell(
    cell: Cell, models: Path, *, device: str = "cpu", threads: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """The row of a cell: plain data.

    See `BenchmarkCell.measure`. Raises `UserError` for what cannot be loaded, quantized or segmented.
    """
    progress = progress or Progress()
    with torch_threads(threads):
        original = cell.original(device)
        model = cell.model(models, device, partial(_quantized, cell, progress=progress.span(0.0, 0.6)))
        volume, reference = cell.case.volume(), cell.case.reference()
        found = _taken(_segmented(model, volume, reference, progress.span(0.6, 0.9), cell.describe()), reference)
        row = {
            "key": cell.key,
            "model": cell.network.name,
            "backbone": backbone(original.network),
            "parameters": sum(parameter.numel() for parameter in original.network.parameters()),
            "precision": cell.setting.precision,
            "granularity": cell.setting.granularity,
            "method": cell.setting.method,
            "recipe": cell.setting.recipe.describe() if cell.setting.recipe else "",
            "case": cell.case.name,
            "case_id": cell.case_id,
            "dataset": getattr(cell.case, "dataset", ""),
            "split": getattr(cell.case, "split", ""),
            "dsc": _mean(found.scores, "dsc"),
            "nsd": _mean(found.scores, "nsd"),
            "structures": found.scores,
            "not_in_reference": found.not_in_reference,
            "matched_by_number": found.matched_by_number,
            "seconds": found.network_seconds,
            "simulated": found.execution.simulated,
            "device": found.execution.device,
            "processor": processor(device),
            "threads": threads,
            "version": medquant.__version__,
            "code": cell.code(),
        }
        row |= _sizes(model, row["parameters"]) | _compiled(model, volume, reference, device)
    progress.report(1.0, cell.describe())
    return row


def scores_of(found: Segmentation, reference: Segmentation) -> list[dict[str, Any]]:
    """`name, dsc, nsd` of every structure of the model that the reference shows; see `matches`."""
    scores = []
    for match in matches(found, reference):
        if (truth := joint_mask(reference, match.reference)).any():
            mask = joint_mask(found, match.found)
            agreed = agreement(mask, truth, reference.volume.spacing, TOLERANCE_MM)
            scores.append({"name": match.name, "dsc": agreed.dsc, "nsd": agreed.nsd})
    if not scores:
        raise UserError(
            f"The reference of {reference.volume.name} shows none of the structures of {found.model_name}. "
            "Choose cases of what the model segments."
        )
    return scores


@cache
def processor(device: str) -> str:
    """The name of what computes."""
    if choose_device(device).type == "cuda":
        return torch.cuda.get_device_name(choose_device(device))
    return Machine.here().processor


def backbone(network: nn.Module) -> str:
    """ "CNN", "hybrid" or "transformer", by the kinds of its layers."""
    layers = [module for module in network.modules() if is_quantizable(module)]
    linear = [isinstance(layer, nn.Linear) for layer in layers]
    return "transformer" if all(linear) else "hybrid" if any(linear) else "CNN"


def _quantized(cell: Cell, original: Model, progress: Progress) -> QuantizedModel:
    return quantize(
        original,
        [case.volume() for case in cell.calibration],
        recipe=cell.setting.recipe,
        selection=CalibrationSelection(count=cell.inputs),
        **progress.callbacks(cell.describe()),
    )


def _segmented(
    model: Model | QuantizedModel, volume: Volume, reference: Segmentation, progress: Progress, about: str = ""
) -> Iterator[Segmentation]:
    """All structures in one; by models that need boxes each structure of the reference by itself, as the papers do."""
    if not getattr(model, "model", model).takes_boxes:
        yield segment(model, volume, **progress.callbacks(about))
        return
    shown = [structure for structure in reference.structures if reference.mask(structure).any()]
    if not shown:
        raise UserError(f"The reference of {volume.name} shows nothing to draw a box around. Choose cases that do.")
    for _, found in segment_each(model, reference, shown, progress, about):
        yield found


@dataclass
class _Taken:
    """What segmenting a case took and gave; of several segmentations the sum. Masks are not kept."""

    execution: Execution
    fallback: Fallback | None = None
    seconds: float = 0.0
    network_seconds: float = 0.0
    scores: list[dict[str, Any]] = field(default_factory=list)
    not_in_reference: list[str] = field(default_factory=list)
    matched_by_number: list[str] = field(default_factory=list)
    """Structures of the model that were taken for a label without a name, each with that label."""


def _taken(segmentations: Iterable[Segmentation], reference: Segmentation | None = None) -> _Taken:
    """Scored where there is a reference."""
    result = None
    for found in segmentations:
        result = result or _Taken(found.execution)
        if found.fallback and not result.fallback:
            result.execution, result.fallback = found.execution, found.fallback
        result.seconds += found.seconds
        result.network_seconds += found.stages.get("network", found.seconds)
        if reference is not None:
            result.scores += scores_of(found, reference)
            result.not_in_reference += [match.name for match in matches(found, reference) if not match.reference]
            by_number = matched_by_number([found], reference)
            result.matched_by_number += [f"{name} with label {label}" for name, label in by_number.items()]
    return result


def _sizes(model: Model | QuantizedModel, parameters: int) -> dict[str, Any]:
    if isinstance(model, QuantizedModel):
        report = model.report
        return {
            "effective_bits": report.effective_bits,
            "bytes": report.bytes_on_disk,
            "quantize_seconds": report.seconds.get("total"),
        }
    return {"effective_bits": 32.0, "bytes": 4 * parameters, "quantize_seconds": None}


def _compiled(model: Model | QuantizedModel, volume: Volume, reference: Segmentation, device: str) -> dict[str, Any]:
    """The same masks by a runtime's own kernels, where these can compute the model; quantized ones on integers."""
    runtime = "tensorrt" if choose_device(device).type == "cuda" else "openvino"
    adapter = getattr(model, "model", model)
    layers = [layer for layer in adapter.network.modules() if isinstance(layer, QuantizedLayer)]
    if RUNTIMES[runtime].version() is None:
        return _not_compiled(f"{runtime} is not installed.")
    if lacking := sum(not runs_on_integers(layer) for layer in layers):
        return _not_compiled(
            f"The inputs of {lacking} of {len(layers)} layers have no scale for all, known beforehand, "
            "as integer kernels need."
        )
    try:
        twin = accelerate(model, runtime, threads=torch.get_num_threads())
        found = _taken(_segmented(twin, volume, reference, Progress()), reference)
        if found.execution.simulated and not found.fallback:
            return _not_compiled(f"{runtime} has integer kernels for a part of the layers only.")
        once = found.fallback or found.seconds >= TIMING_SECONDS
        again = [] if once else list(_again(twin, volume, reference))
    except UserError as error:  # the runtime can do no part of it, or has no memory for it
        return _not_compiled(str(error))
    if stood_in := next((one.fallback for one in (found, *again) if one.fallback), None):
        return _not_compiled(stood_in.reason)  # what was timed is not what was asked for
    return _not_compiled(None) | {
        "runtime": found.execution.describe(),
        "runtime_kind": runtime,
        "runtime_seconds": median(one.network_seconds for one in again or [found]),
        "runtime_dsc": _mean(found.scores, "dsc"),
        "runtime_structures": found.scores,
    }


def _not_compiled(why: str | None) -> dict[str, Any]:
    names = ("runtime", "runtime_kind", "runtime_seconds", "runtime_dsc", "runtime_structures")
    return dict.fromkeys(names) | {"no_runtime": why}


def _again(model: Model | QuantizedModel, volume: Volume, reference: Segmentation) -> Iterator[_Taken]:
    """Passes to be timed, none of which finds what an earlier one kept."""
    for _ in range(TIMED_PASSES):
        getattr(model, "model", model).forget()
        yield _taken(_segmented(model, volume, reference, Progress()))


def _mean(scores: list[dict[str, Any]], name: str) -> float:
    return sum(score[name] for score in scores) / len(scores)
