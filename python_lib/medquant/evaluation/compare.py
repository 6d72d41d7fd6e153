"""What quantization costs: every model against FP32 and against a reference, structure by structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from medquant.errors import UserError
from medquant.evaluation.comparison import Comparison, ModelFacts, ModelSummary, StructureRow
from medquant.evaluation.metrics import Agreement, agreement
from medquant.evaluation.slices import SliceAgreement, agreement_by_slice
from medquant.evaluation.structures import common_structures, find_structure, joint_box
from medquant.evaluation.verdict import PATCHES_MM, VERDICTS, Agreed, judge
from medquant.imaging.lattice import extents_of
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.segmentation import Segmentation, Structure

APART_MM = 6.0
"""Slices that are shown lie at least so far apart."""

__all__ = ["Comparison", "ModelFacts", "ModelSummary", "StructureRow", "compare", "slices_that_differ_most"]


def compare(
    segmentations: Sequence[Segmentation],
    *,
    reference: Segmentation | None = None,
    tolerance_mm: float = 2.0,
    facts: Sequence[ModelFacts] | None = None,
    axis: int | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Comparison:
    """Compare segmentations of one scan with the first of them (FP32) and, where given, with a reference.

    Structures are matched by name (see `structures.find_structure`). `facts` has one entry for each segmentation.
    Slices run along an array axis (None: head-feet).
    Raises `UserError` when there is nothing to compare, the grids differ, the reference has none of the structures,
    or `facts` does not fit; `Cancelled` when `cancelled()` turns true.
    """
    segmentations = tuple(segmentations)
    if not segmentations:
        raise UserError("There is no segmentation to compare. Give the FP32 segmentation first, then the others.")
    for other in (*segmentations[1:], *([reference] if reference is not None else [])):
        _require_one_grid(segmentations[0], other)
    structures = common_structures(segmentations)
    if not structures:
        raise UserError("The segmentations declare no structures. Name the labels that are to be compared.")
    known = facts if facts is not None else [ModelFacts() for _ in segmentations]
    if len(known) != len(segmentations):
        raise UserError(f"{len(known)} model facts do not fit {len(segmentations)} segmentations. Give one for each.")
    not_in_reference: tuple[str, ...] = ()
    if reference is not None:
        not_in_reference = tuple(s.name for s in structures if find_structure(s, reference) is None)
        if len(not_in_reference) == len(structures):
            raise UserError(
                f"The reference has none of the structures {', '.join(not_in_reference)}. "
                "Name the labels of the reference, or choose another one."
            )

    report = Progress(progress, cancelled)
    names = _unique([fact.name or s.model_name or "model" for fact, s in zip(known, segmentations, strict=True)])
    axis = segmentations[0].volume.slice_axis if axis is None else axis
    seen = [_Seen(segmentation) for segmentation in segmentations]
    seen_reference = _Seen(reference) if reference is not None else None
    rows: list[StructureRow] = []
    for number, (name, model) in enumerate(zip(names, seen, strict=True)):
        for position, structure in enumerate(structures):
            done = (number + position / len(structures)) / len(seen)
            report.report(done, f"Comparing {structure.name}, {name}")
            rows.append(_row(name, structure, model, seen[0], seen_reference, tolerance_mm, axis))
    report.report(1.0, "Compared")
    summary = tuple(
        _summarise(replace(fact, name=name), segmentation, [row for row in rows if row.model == name])
        for name, fact, segmentation in zip(names, known, segmentations, strict=True)
    )
    return Comparison(tuple(rows), summary, float(tolerance_mm), reference is not None, not_in_reference)


def slices_that_differ_most(
    a: Segmentation, b: Segmentation, count: int = 3, axis: int | None = None, *, apart_mm: float = 0.0
) -> tuple[int, ...]:
    """Indices of the `count` slices along an array axis in which most voxels differ, most first.

    `axis` is 0, 1, 2 for k, j, i; None: the volume's head-feet axis. Slices nearer than `apart_mm` to one already
    chosen are passed over, so that neighbours do not show one and the same error. Where fewer slices differ, those
    with most voxels labelled follow. Structures are matched as in `compare`.
    """
    _require_one_grid(a, b)
    axis = a.volume.slice_axis if axis is None else axis
    others = tuple(other for other in range(3) if other != axis)
    differing = np.count_nonzero(differs(a, b), axis=others)
    labelled = np.count_nonzero((a.labels != 0) | (b.labels != 0), axis=others)
    chosen: list[int] = []
    for index in np.lexsort((-labelled, -differing)):
        near = min((abs(index - other) for other in chosen), default=np.inf) * a.volume.spacing[axis]
        if near >= apart_mm and len(chosen) < count:
            chosen.append(int(index))
    return tuple(chosen)


def differs_most(segmentations: Sequence[Segmentation]) -> int:
    """Which of the segmentations differs from the first in most voxels; 0 where none differs."""
    return int(np.argmax([np.count_nonzero(differs(segmentations[0], other)) for other in segmentations]))


def worst_slices(segmentations: Sequence[Segmentation], count: int, axis: int | None = None) -> list[int]:
    """The slices to look at, in order: where the segmentation that differs most from the first does so most."""
    worst = segmentations[differs_most(segmentations)]
    return sorted(slices_that_differ_most(segmentations[0], worst, count, axis, apart_mm=APART_MM))


def differs(a: Segmentation, b: Segmentation) -> np.ndarray:
    """Where two segmentations of one scan name different structures: boolean (k, j, i)."""
    return a.labels != labels_as_in(a, b)


def labels_as_in(a: Segmentation, b: Segmentation) -> np.ndarray:
    """The labels of `b` in the numbering of `a`; what `a` does not know becomes negative."""
    counterparts = {structure.label: find_structure(structure, a) for structure in b.structures}
    renamed = {old: -old if new is None else new.label for old, new in counterparts.items()}
    if all(old == new for old, new in renamed.items()):
        return b.labels
    labels = b.labels.astype(np.int64)
    for old, new in renamed.items():
        labels[b.labels == old] = new
    return labels


class _Seen:
    """A segmentation with the boxes of its labels, found once."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.segmentation = segmentation
        self.boxes = extents_of(segmentation.labels)

    def box(self, structure: Structure | None) -> tuple[slice, ...] | None:
        return self.boxes.get(structure.label) if structure is not None else None

    def mask(self, structure: Structure | None, box: tuple[slice, ...]) -> np.ndarray:
        labels = self.segmentation.labels[box]
        return labels == structure.label if structure is not None else np.zeros(labels.shape, dtype=bool)


def _agreement(structure: Structure, a: _Seen, b: _Seen, tolerance_mm: float) -> tuple[Agreement, float, float]:
    """How well `a` and `b` agree on a structure, and its volume in each, in mL."""
    in_a, in_b = find_structure(structure, a.segmentation), find_structure(structure, b.segmentation)
    volume = a.segmentation.volume
    box = joint_box([a.box(in_a), b.box(in_b)], volume.shape)
    if box is None:
        return Agreement(1.0, 1.0, 0.0), 0.0, 0.0
    mask_a, mask_b = a.mask(in_a, box), b.mask(in_b, box)
    found = Agreement(1.0, 1.0, 0.0) if a is b else agreement(mask_a, mask_b, volume.spacing, tolerance_mm)
    ml_a, ml_b = (float(np.count_nonzero(mask) * volume.voxel_volume_ml) for mask in (mask_a, mask_b))
    return found, ml_a, ml_b


def _row(
    name: str,
    structure: Structure,
    model: _Seen,
    fp32: _Seen,
    reference: _Seen | None,
    tolerance_mm: float,
    axis: int,
) -> StructureRow:
    to_fp32, volume, fp32_volume = _agreement(structure, model, fp32, tolerance_mm)
    to_reference, reference_volume = None, None
    if reference is not None and find_structure(structure, reference.segmentation) is not None:
        to_reference, _, reference_volume = _agreement(structure, model, reference, tolerance_mm)
    percent = _percent(volume, fp32_volume)
    spacing = model.segmentation.volume.spacing
    verdict = judge(
        Agreed(
            to_fp32.dsc,
            to_fp32.nsd,
            to_fp32.hd95_mm,
            percent,
            tolerance_mm,
            max(spacing),
            () if to_fp32.dsc in (0.0, 1.0) else _slices(structure, fp32, model, axis),
        )
    )
    return StructureRow(
        model=name,
        structure=structure.name,
        label=structure.label,
        dsc_vs_fp32=to_fp32.dsc,
        nsd_vs_fp32=to_fp32.nsd,
        hd95_mm_vs_fp32=to_fp32.hd95_mm,
        dsc_vs_reference=to_reference and to_reference.dsc,
        nsd_vs_reference=to_reference and to_reference.nsd,
        hd95_mm_vs_reference=to_reference and to_reference.hd95_mm,
        volume_ml=volume,
        fp32_volume_ml=fp32_volume,
        reference_volume_ml=reference_volume,
        volume_change_ml=volume - fp32_volume,
        volume_change_percent=percent,
        verdict=verdict.words,
        verdict_reason=verdict.reason,
        verdict_slice=verdict.slice,
    )


def _slices(structure: Structure, a: _Seen, b: _Seen, axis: int) -> tuple[SliceAgreement, ...]:
    """The slices in which `a` and `b` differ on a structure that both show."""
    in_a, in_b = find_structure(structure, a.segmentation), find_structure(structure, b.segmentation)
    volume = a.segmentation.volume
    box = joint_box([a.box(in_a), b.box(in_b)], volume.shape)
    found = agreement_by_slice(a.mask(in_a, box), b.mask(in_b, box), volume.spacing, axis, PATCHES_MM)
    return tuple(replace(one, index=one.index + box[axis].start) for one in found)


def _summarise(facts: ModelFacts, segmentation: Segmentation, rows: Sequence[StructureRow]) -> ModelSummary:
    shown = [row for row in rows if row.volume_ml or row.fp32_volume_ml]
    known = [row for row in rows if row.dsc_vs_reference is not None]
    referred = [row for row in known if row.volume_ml or row.reference_volume_ml]
    least = min(shown, key=lambda row: row.dsc_vs_fp32, default=None)
    lost = max(rows, key=_how_bad)
    total, fp32_total = sum(row.volume_ml for row in rows), sum(row.fp32_volume_ml for row in rows)
    if (run := segmentation.execution) is not None:
        facts = replace(facts, simulated=run.simulated, device=run.device, runtime=run.runtime, precision=run.precision)
        facts = replace(facts, layers=run.layers, floating_layers=run.floating_layers)
    return ModelSummary(
        **asdict(facts),
        dsc_vs_fp32=_mean([row.dsc_vs_fp32 for row in shown], 1.0),
        nsd_vs_fp32=_mean([row.nsd_vs_fp32 for row in shown], 1.0),
        hd95_mm_vs_fp32=_mean([d for row in shown if math.isfinite(d := row.hd95_mm_vs_fp32)]),
        worst_dsc_vs_fp32=least.dsc_vs_fp32 if least else 1.0,
        worst_structure=least.structure if least else "",
        missed_vs_fp32=sum(not math.isfinite(row.hd95_mm_vs_fp32) for row in shown),
        dsc_vs_reference=_mean([row.dsc_vs_reference for row in referred], 1.0) if known else None,
        nsd_vs_reference=_mean([row.nsd_vs_reference for row in referred], 1.0) if known else None,
        hd95_mm_vs_reference=_mean([d for row in referred if math.isfinite(d := row.hd95_mm_vs_reference)]),
        missed_vs_reference=sum(not math.isfinite(row.hd95_mm_vs_reference) for row in referred) if known else None,
        volume_ml=total,
        volume_change_ml=total - fp32_total,
        volume_change_percent=_percent(total, fp32_total),
        seconds=segmentation.seconds,
        stages=dict(segmentation.stages),
        peak_memory_mb=segmentation.peak_memory_mb,
        verdict=lost.verdict,
        verdict_reason=f"{lost.structure}, {lost.verdict_reason}" if lost.verdict_reason else "",
        verdict_slice=lost.verdict_slice,
    )


def _how_bad(row: StructureRow) -> tuple[int, bool, float]:
    """By the verdict; of equally bad structures one with a slice to look at comes first, then that of less Dice."""
    return VERDICTS.index(row.verdict), row.verdict_slice is not None, -row.dsc_vs_fp32


def _require_one_grid(first: Segmentation, other: Segmentation) -> None:
    a, b = first.volume, other.volume
    # Half a thousandth of a voxel over the whole scan is rounding in a file's header; more is another grid.
    if a.shape == b.shape and np.allclose(a.affine, b.affine, rtol=0, atol=1e-3):
        return
    raise UserError(
        f"The segmentations lie on different grids ({_grid(first)} and {_grid(other)}). "
        "Compare segmentations of one scan, or resample them onto one grid first."
    )


def _grid(segmentation: Segmentation) -> str:
    k, j, i = segmentation.volume.shape
    dk, dj, di = segmentation.volume.spacing
    return f"{i} x {j} x {k} voxels of {di:.3g} x {dj:.3g} x {dk:.3g} mm"


def _unique(names: Sequence[str]) -> list[str]:
    result: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in result:
            number += 1
            candidate = f"{name} ({number})"
        result.append(candidate)
    return result


def _mean(values: Sequence[float], default: float | None = None) -> float | None:
    return float(np.mean(values)) if len(values) else default


def _percent(value: float, base: float) -> float | None:
    if base:
        return 100.0 * (value - base) / base
    return None if value else 0.0
