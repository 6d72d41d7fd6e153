"""What quantizing cost: the numbers as they are shown, where the masks differ, and the page to keep."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medquant.evaluation import wording
from medquant.evaluation.compare import compare as run_compare
from medquant.evaluation.compare import labels_as_in
from medquant.evaluation.comparison import Comparison, ModelFacts, ModelSummary, StructureRow
from medquant.imaging.boxes import slice_axis_of
from medquant.imaging.volume import Volume
from medquant.models.catalogue import DEMONSTRATES
from medquant.progress import Progress
from medquant.segmentation import Segmentation
from medquant.worker import measured
from medquant.worker.arrays import segmentation_of, write_labels
from medquant.worker.unfinished import writing_in
from medquant.worker.work import Work

FP32_ONLY, QUANTIZED_ONLY = 1, 2
COLUMNS = (
    ("Dice", "Overlap with FP32: 1 is the same mask."),
    ("NSD", "Part of the surface that lies within 2 mm of that of FP32."),
    ("HD95 mm", "Distance to the surface of FP32 that 95 % of the surface stay below."),
    ("Volume mL", "Of the quantized mask, and how much it differs from FP32."),
    ("Seconds", "From the scan in memory to the masks in memory, on this machine."),
    ("Memory", "The most that the engine held while it segmented."),
    ("Size", "FP32: 4 bytes for each weight, whatever its file stores them in. Quantized: its file."),
)


def compare(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Compare the masks `fp32` and `quantized` of `volume`, and both with `reference` where there is one.

    `of` names the model and `scan` the scan, so that what the masks lost there is remembered, and `handle` the file of
    the quantized one.
    `calibrated_here` tells whether that was calibrated on `volume`, where the file should not be asked.
    """
    progress = work.part()
    comparison, masks = _compared(params, work, progress)
    fp32, quantized = masks
    axis = _axis(params, fp32.volume)
    difference = _difference(fp32, quantized)
    progress.report(0.95, "Finding the slice that differs most")
    verdict = comparison.summary[1].verdict
    model, scan = params.get("of"), params.get("scan")
    if model and scan and not _edited(params):  # what a hand has mended says nothing of the model
        measured.remember(model, comparison.summary[1].recipe, verdicts={scan: verdict})
    progress.check()
    per_slice = [
        np.count_nonzero(difference, axis=tuple(other for other in range(3) if other != one)) for one in range(3)
    ]
    counts = per_slice[axis]
    short = wording.short_names(comparison.summary)[comparison.summary[1].name]
    return {
        **comparison.to_dict(),
        "table": _table(comparison, params, fp32.volume),
        "verdict": verdict,
        "difference_per_slice": counts.tolist(),
        "worst": _worst(difference, counts, axis, fp32.volume),
        "difference": {
            **write_labels(work.folder, "difference", difference),
            "per_slice": [one.tolist() for one in per_slice],
            "labels": {str(FP32_ONLY): "FP32 only", str(QUANTIZED_ONLY): f"{short} only"},
        },
    }


def report(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Write the page of the same comparison to `path`, with `sensitivity` (as `map_of` takes it) where it is told."""
    from medquant.artifact import describe
    from medquant.evaluation.report import ReportDetails, write_report
    from medquant.quantized_model import QuantizationReport
    from medquant.worker.methods.layers import map_of

    progress = work.part()
    comparison, masks = _compared(params, work, progress)
    fp32, quantized = comparison.summary
    layers, hashed = {}, ""
    if params.get("handle") and Path(params["handle"]).is_file():
        description = describe(params["handle"])
        layers[quantized.name] = QuantizationReport.from_dict(description["report"])
        hashed = description["provenance"]["weights_sha256"]
    inputs = layers[quantized.name].calibration_inputs if layers else 0
    details = ReportDetails(
        model=params.get("title") or fp32.name,
        reference=params.get("reference_from", ""),
        calibration=_calibration(inputs, _calibrated_here(params, masks[0].volume)),
        demonstration=DEMONSTRATES.get(params.get("of", ""), ""),
        weights_hash=hashed,
        licence=params.get("licence", ""),
        notes=tuple(_edits(params, wording.short_names(comparison.summary), comparison)),
    )
    progress.report(0.7, "Writing the page")
    axis = _axis(params, masks[0].volume)
    path = Path(params["path"]).expanduser()
    with writing_in(path.parent, work.folder):
        sensitivity = map_of(params["sensitivity"]) if params.get("sensitivity") else None
        path = write_report(path, comparison, masks, details=details, layers=layers, sensitivity=sensitivity, axis=axis)
    return {"path": str(path)}


def _compared(params: dict[str, Any], work: Work, progress: Progress) -> tuple[Comparison, list[Segmentation]]:
    volume = work.warm.volume(work.folder, params["volume"])
    told = [params["fp32"], params["quantized"]]
    facts = [ModelFacts(**one["facts"]) for one in told]
    facts[1] = replace(facts[1], bytes_fp32=facts[0].bytes_fp32)  # one network, one yardstick
    masks = [segmentation_of(work.folder, one, volume) for one in told]
    reference = params.get("reference") and segmentation_of(work.folder, params["reference"], volume)
    part = progress.span(0.0, 0.9)
    comparison = run_compare(
        masks,
        reference=reference,
        facts=facts,
        axis=_axis(params, volume),
        progress=lambda event: part.report(event.fraction, event.message),
        cancelled=progress.cancelled,
    )
    return comparison, masks


def _calibrated_here(params: dict[str, Any], volume: Volume) -> bool | None:
    """Whether the quantized model was calibrated on this scan; None where nothing tells."""
    from medquant.artifact import describe

    if params.get("calibrated_here") is not None:
        return params["calibrated_here"]
    if not params.get("handle") or not Path(params["handle"]).is_file():
        return None
    hashes = describe(params["handle"])["provenance"]["calibration_sha256"]
    return volume.content_hash() in hashes if hashes else None


def _calibration(inputs: int, here: bool | None) -> str:
    """What the quantized model was calibrated on."""
    if not inputs:
        return ""
    where = {True: "this scan", False: "another scan", None: "a scan"}[here]
    return f"{inputs} piece{'' if inputs == 1 else 's'} of {where}, unlabelled"


def _axis(params: dict[str, Any], volume: Volume) -> int:
    """The array axis of the slices that the model saw."""
    return slice_axis_of(volume, params["fp32"].get("plane") or None)


def _edited(params: dict[str, Any]) -> list[int]:
    """Which of FP32's masks (0) and the quantized model's (1) were changed by hand."""
    return [number for number, one in enumerate(("fp32", "quantized")) if params[one].get("edited")]


def _edits(params: dict[str, Any], names: dict[str, str], comparison: Comparison) -> list[str]:
    """That masks are compared as a hand has left them."""
    edited = [names[comparison.summary[number].name] for number in _edited(params)]
    return [f"Masks of {' and '.join(edited)} were edited by hand and are compared as they are now."] if edited else []


def _difference(fp32: Segmentation, quantized: Segmentation) -> np.ndarray:
    """uint8 (k, j, i): where FP32 names a structure and the other none or another one, and where the other does so
    alone."""
    first, second = fp32.labels, labels_as_in(fp32, quantized)
    differ = first != second
    return np.where(differ & (first > 0), FP32_ONLY, np.where(differ, QUANTIZED_ONLY, 0)).astype(np.uint8)


def _worst(difference: np.ndarray, counts: np.ndarray, axis: int, volume: Volume) -> dict[str, Any] | None:
    """The slice that differs most, and the middle of what differs there, in LPS mm; None where nothing differs."""
    index = int(counts.argmax())
    if not counts[index]:
        return None
    places = np.argwhere(np.take(difference, index, axis=axis))
    middle = np.insert(places.mean(0), axis, index)
    position = (volume.affine @ [*middle[::-1], 1.0])[:3]
    return {
        "axis": axis,
        "index": index,
        "voxels": int(counts[index]),
        "position": position.tolist(),
        "text": f"Slice {index + 1} of {len(counts)} differs most: {counts[index]} voxels in all",
    }


def _table(comparison: Comparison, params: dict[str, Any], volume: Volume) -> dict[str, Any]:
    """The comparison as it is shown: every number spelled, with a line for each structure and one for all."""
    fp32, quantized = comparison.summary
    names = wording.short_names(comparison.summary)
    referred = [
        (f"{name} to reference", f"Dice of the {name} mask against the reference.")
        for name in names.values()
        if comparison.has_reference
    ]
    for number in _edited(params):
        names[comparison.summary[number].name] += " (edited)"
    columns = [*COLUMNS[:4], *referred, *COLUMNS[4:]]
    rows = [
        _model_row(names[fp32.name], fp32, None, comparison.has_reference),
        _model_row(names[quantized.name], quantized, fp32, comparison.has_reference),
    ]
    originals = {row.structure: row for row in comparison.rows_of(fp32.name)}
    for row in comparison.rows_of(quantized.name):
        rows.append(_structure_row(row, originals[row.structure], comparison.has_reference))
    return {
        "columns": [title for title, _ in columns],
        "tooltips": [tip for _, tip in columns],
        "rows": rows,
        "headline": f"Dice {wording.score(quantized.dsc_vs_fp32)}, {wording.judged(quantized)}",
        "notes": _notes(comparison, params, names, volume),
        "csv": _csv([title for title, _ in columns], rows),
    }


def _model_row(title: str, model: ModelSummary, fp32: ModelSummary | None, referred: bool) -> dict[str, Any]:
    same = fp32 is None
    cells = [
        _cell("" if same else wording.score(model.dsc_vs_fp32)),
        _cell("" if same else wording.score(model.nsd_vs_fp32)),
        _cell("" if same else wording.distance(model.hd95_mm_vs_fp32)),
        _volume(model.volume_ml, None if same else model.volume_change_ml),
    ]
    if referred:
        own = _cell(wording.score(model.dsc_vs_reference))
        cells += [own, _cell("")] if same else [_cell(""), own]
    cells += [
        _cell(wording.seconds(model.seconds), not same and _less(model.seconds, fp32.seconds)),
        _cell(wording.memory(model.peak_memory_mb)),
        _cell(wording.model_size(model), not same and _less(model.bytes_on_disk, fp32.bytes_fp32)),
    ]
    bits = [] if same or model.effective_bits is None else [f"{wording.bits(model.effective_bits)} bits/weight"]
    return {"title": title, "cells": cells, "of_all": True, "badges": [wording.computed(model), model.device, *bits]}


def _structure_row(row: StructureRow, fp32: StructureRow, referred: bool) -> dict[str, Any]:
    cells = [
        _cell(wording.score(row.dsc_vs_fp32)),
        _cell(wording.score(row.nsd_vs_fp32)),
        _cell(wording.distance(row.hd95_mm_vs_fp32)),
        _volume(row.volume_ml, row.volume_change_ml),
    ]
    if referred:
        before, after = fp32.dsc_vs_reference, row.dsc_vs_reference
        cells += [
            _cell(wording.score(before), _less(after, before)),
            _cell(wording.score(after), _less(before, after)),
        ]
    return {"title": row.structure, "cells": [*cells, _cell(""), _cell(""), _cell("")], "of_all": False, "badges": []}


def _cell(text: str, strong: bool = False) -> dict[str, Any]:
    return {"text": text, "strong": strong}


def _volume(millilitres: float, change: float | None) -> dict[str, Any]:
    return _cell(wording.volume(millilitres) + ("" if change is None else f" ({wording.change(change)})"))


def _less(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b


def _notes(comparison: Comparison, params: dict[str, Any], names: dict[str, str], volume: Volume) -> list[str]:
    """What must be read with the table."""
    fp32, quantized = comparison.summary
    short, notes = names[quantized.name], _edits(params, names, comparison)
    if any(params[one].get("known_slices") for one in ("fp32", "quantized")):
        notes.append("Slices that were seen before were not encoded again, so the seconds do not compare the models.")
    else:
        if _less(fp32.seconds, quantized.seconds):
            notes.append(f"{short} is slower than FP32 on this machine.")
        if fp32.runtime and quantized.runtime and fp32.runtime != quantized.runtime:
            told = [f"{names[one.name]} ran by {wording.runtime(one.runtime)}" for one in (fp32, quantized)]
            notes.append(f"{' and '.join(told)}: the seconds are not the work of the bits alone.")
    if quantized.simulated:
        notes.append(f"{short} is simulated: the file is smaller, the arithmetic is that of floating point.")
    if _calibrated_here(params, volume) is False:
        notes.append(f"{short} was calibrated on another scan.")
    if comparison.not_in_reference:
        notes.append(f"The reference does not show {', '.join(comparison.not_in_reference)}.")
    if params.get("of") in DEMONSTRATES:
        notes.append(DEMONSTRATES[params["of"]])
    return [*notes, "Not for clinical use."]


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["", *columns])
    table.writerows([row["title"], *(cell["text"] for cell in row["cells"])] for row in rows)
    return text.getvalue()
