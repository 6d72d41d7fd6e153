"""The report: one self-contained page that shows what was done, what it cost, and where to look."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

import medquant
from medquant.errors import UserError
from medquant.evaluation import vector, verdict, wording
from medquant.evaluation.compare import APART_MM, differs, differs_most, worst_slices
from medquant.evaluation.comparison import Comparison, ModelSummary
from medquant.evaluation.effect_table import sensitivity_table
from medquant.evaluation.scene import FP32_COLOR, QUANTIZED_COLOR, Scene, scene_of
from medquant.files import atomic_path
from medquant.quantized_model import QuantizationReport
from medquant.rewrites.redesign_report import is_redesigned
from medquant.segmentation import Segmentation
from medquant.sensitivity.effects import SensitivityMap

_WORST_LAYERS = 5
_COLUMNS = {
    "dsc_vs_fp32": (max, wording.score),
    "dsc_vs_reference": (max, wording.score),
    "nsd_vs_reference": (max, wording.score),
    "hd95_mm_vs_reference": (min, wording.distance),
    "effective_bits": (min, wording.bits),
    "bytes_on_disk": (min, wording.size),
    "seconds": (min, wording.seconds),
}
"""What is better in a column, and how it is written. Memory is that of the process, so it ranks no model."""
_COST = ("effective_bits", "bytes_on_disk", "bytes_fp32", "seconds", "peak_memory_mb")


@dataclass(frozen=True)
class ReportDetails:
    """What the report says in the caller's words. Nothing of it may identify a patient.

    The report itself takes no name, path or date from the scan: only its grid, its modality and a hash.
    """

    model: str = ""
    """Title: the model's name, "MedSAM ViT-B"."""
    scan: str = ""
    """What the scan is, where it can be told: "Abdominal CT phantom, procedural"."""
    reference: str = ""
    """Where the reference comes from: "manual", "output of another model"."""
    calibration: str = ""
    """"8 slices of this scan"."""
    demonstration: str = ""
    """What a demonstration model was trained on, and that it diagnoses nothing; empty for every other model."""
    weights_hash: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()
    """What must be read with the numbers: that masks were edited by hand."""


def write_report(
    path: str | Path,
    comparison: Comparison,
    segmentations: Sequence[Segmentation],
    *,
    details: ReportDetails | None = None,
    layers: Mapping[str, QuantizationReport] | None = None,
    sensitivity: SensitivityMap | None = None,
    slices: int = 3,
    axis: int | None = None,
) -> Path:
    """Write a self-contained HTML page: no other file, no network, no script needed.

    `segmentations` are those of the comparison, in its order; `layers` gives the quantization report of a model by
    its name in the comparison; `sensitivity`, where it was measured, is drawn as a map. Slices run along an array axis
    (None: head-feet). Raises `UserError` where the segmentations do not fit the comparison and where `path` cannot be
    written.
    """
    if len(segmentations) != len(comparison.summary):
        raise UserError(
            f"The comparison has {len(comparison.summary)} models, but {len(segmentations)} segmentations were given. "
            "Give the segmentations that were compared."
        )
    path, names = Path(path), wording.short_names(comparison.summary)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            details=details or ReportDetails(),
            comparison=comparison,
            models=comparison.summary,
            names=names,
            title=wording.title((details and details.model) or comparison.summary[0].name, comparison.summary[1:]),
            scan=_scan(segmentations[0]),
            has_cost=any(getattr(model, column) is not None for model in comparison.summary for column in _COST),
            slower=_slower(comparison.summary),
            advice=wording.smallest_as_fp32(comparison.summary[1:]),
            as_fp32=[names[model.name] for model in comparison.summary[1:] if wording.keeps_masks(model)],
            reasons=_reasons(comparison.summary[1:], names),
            best=_best(comparison.summary[1:]),
            structures=[
                (name, [row for row in comparison.rows if row.structure == name]) for name in comparison.structures
            ],
            pictures=_pictures(comparison, segmentations, slices, axis),
            layers=_layer_table(comparison, layers or {}),
            sensitive=sensitivity_table(sensitivity) if sensitivity is not None and sensitivity.cells else None,
            different=_different(comparison.summary, names, layers or {}),
            recipes=_recipes(comparison.summary, layers or {}),
            colors={"fp32": FP32_COLOR, "quantized": QUANTIZED_COLOR},
            versions=_versions(),
            today=date.today().isoformat(),
            apart_mm=APART_MM,
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medquant.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"wording": wording, "verdict": verdict}
    return environment


def _scan(segmentation: Segmentation) -> dict[str, str]:
    volume = segmentation.volume
    k, j, i = volume.shape
    dk, dj, di = volume.spacing
    times = f" {wording.TIMES} "
    return {
        "modality": volume.modality or "scan",
        "voxels": times.join(str(n) for n in (i, j, k)),
        "spacing": times.join(f"{d:.2f}" for d in (di, dj, dk)),
        "hash": volume.content_hash()[:12],
    }


def _slower(models: Sequence[ModelSummary]) -> list[str]:
    """The quantized models that took longer than FP32 on this machine."""
    fp32 = models[0].seconds
    return [model.name for model in models[1:] if fp32 and model.seconds and model.seconds > fp32]


def _reasons(quantized: Sequence[ModelSummary], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """The quantized models that lost something, and what decided."""
    return [(names[model.name], wording.judged(model)) for model in quantized if model.verdict_reason]


def _different(
    models: Sequence[ModelSummary], names: Mapping[str, str], reports: Mapping[str, QuantizationReport]
) -> list[tuple[str, str]]:
    """The models whose network is not the original's, and what is known of that."""
    found = []
    for model in models:
        redesign = reports[model.name].redesign if model.name in reports else None
        if redesign is not None:
            found.append((names[model.name], redesign.describe()))
        elif is_redesigned(model.name):
            found.append((names[model.name], "A different model: layers were exchanged and the network trained anew."))
    return found


def _best(quantized: Sequence[ModelSummary]) -> set[tuple[str, str]]:
    """Model and column of the best figures among the quantized models, as they are shown; they are set heavier."""
    best = set()
    for column, (choose, show) in _COLUMNS.items():
        values = [value for model in quantized if (value := getattr(model, column)) is not None]
        shown = {show(value) for value in values}
        if len(shown) > 1:
            winner = show(choose(values))
            best |= {(model.name, column) for model in quantized if show(getattr(model, column)) == winner}
    return best


def _pictures(
    comparison: Comparison, segmentations: Sequence[Segmentation], count: int, axis: int | None
) -> dict[str, Any]:
    """One row for each slice, one panel for each model, as data for inline SVG."""
    fp32 = segmentations[0]
    masks = [differs(fp32, other) for other in segmentations]
    most = differs_most(segmentations)
    indices = worst_slices(segmentations, count, axis)
    named = comparison.summary[most].verdict_slice
    if named is not None and named not in indices:  # what the verdict names is shown
        indices = sorted([*indices[: count - 1], named])
    scenes = [scene_of(segmentations, index, axis) for index in indices]
    area_ml = fp32.volume.voxel_volume_ml
    axis = scenes[0].view.axis if scenes else 0
    different = [
        [int(np.count_nonzero(np.take(mask, index, axis=axis))) * area_ml for index in indices] for mask in masks
    ]
    return {
        "chosen_by": comparison.summary[most].name if most else "",
        "slices_in_scan": fp32.volume.shape[axis],
        "rows": [
            {
                "number": scene.index + 1,
                "plane": scene.view.plane,
                "edges": scene.view.edges,
                "box": vector.view_box(scene),
                "width": scene.width_mm,
                "height": scene.height_mm,
                "grey": vector.grey_image(scene),
                "panels": [_panel(scene, model, different[model][row]) for model in range(len(segmentations))],
            }
            for row, scene in enumerate(scenes)
        ],
    }


def _panel(scene: Scene, model: int, different_ml: float) -> dict[str, Any]:
    return {
        "outline": vector.outline_path(scene, model),
        "only_fp32": vector.area_path(scene, scene.only_fp32(model)),
        "only_other": vector.area_path(scene, scene.only_other(model)),
        "different_ml": different_ml,
    }


def _layer_table(comparison: Comparison, reports: Mapping[str, QuantizationReport]) -> dict[str, Any]:
    """Layers in network order, one column of errors for each quantized model, the worst marked."""
    models = [model.name for model in comparison.summary if model.name in reports]
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        for layer in reports[model].layers:
            row = found.setdefault(layer.name, {"name": layer.name, "kind": layer.kind, "cells": {}})
            row["shape"] = f" {wording.TIMES} ".join(str(n) for n in layer.shape)
            row["cells"][model] = {"bits": layer.bits, "error": float(layer.relative_error), "worst": False}
    for model in models:
        cells = [row["cells"][model] for row in found.values() if model in row["cells"]]
        for cell in sorted(cells, key=lambda cell: -cell["error"])[:_WORST_LAYERS]:
            cell["worst"] = True
    kept = {name: reason for model in models for name, reason in reports[model].kept.items()}
    errors = [cell["error"] for row in found.values() for cell in row["cells"].values()]
    return {"models": models, "rows": list(found.values()), "largest": max(errors, default=0.0), "kept": kept}


def _recipes(models: Sequence[ModelSummary], reports: Mapping[str, QuantizationReport]) -> list[tuple[str, str]]:
    """How each quantized model was made, and what a number of it takes on disk."""
    stored = {name: wording.stored_bits(report) for name, report in reports.items()}
    told = [(model.name, "; ".join(filter(None, (model.recipe, stored.get(model.name))))) for model in models]
    return [(name, words) for name, words in told if words]


def _versions() -> str:
    parts = [f"medquant {medquant.__version__}", f"Python {platform.python_version()}"]
    for package in ("torch", "monai", "nnunetv2", "transformers"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}"])
