"""The main job: one scan, one model, its 8-, 4- and 2-bit versions, and what each of them costs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medquant.errors import UserError
from medquant.evaluation.compare import compare
from medquant.evaluation.comparison import Comparison, ModelFacts
from medquant.evaluation.facts import facts_of
from medquant.evaluation.figures import contact_sheet
from medquant.evaluation.report import ReportDetails, write_report
from medquant.files import replacing
from medquant.imaging.boxes import boxes_from_labels, resolve_box
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation, write_volume
from medquant.models.base import CalibrationSelection, Model, device_of
from medquant.models.registry import load_model
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.prompts import BoxPrompt
from medquant.quantize import quantize
from medquant.quantized_model import QuantizationReport
from medquant.recipe import Recipe
from medquant.segment import segment
from medquant.segmentation import Segmentation, Structure

BITS = (8, 4, 2)
QUANTIZING = 0.35
"""Time that quantizing takes, in segmentations of the scan; for the estimate of the time left."""
ROW = (
    "name",
    "weight_bits",
    "effective_bits",
    "bytes_on_disk",
    "bytes_fp32",
    "dsc_vs_fp32",
    "nsd_vs_fp32",
    "dsc_vs_reference",
    "nsd_vs_reference",
    "seconds",
    "peak_memory_mb",
    "simulated",
    "device",
    "recipe",
)


@dataclass(frozen=True)
class DemoCase:
    """A scan to demonstrate on, with a reference and boxes where there are any, and where they come from in words."""

    volume: Volume
    scan: str
    reference: Segmentation | None = None
    reference_from: str = ""
    prompt: BoxPrompt | None = None
    boxes_from: str = ""
    made_here: bool = False
    """Whether the scan is written beside the masks, as there is no file of it."""


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found, and the files it wrote."""

    comparison: Comparison
    segmentations: tuple[Segmentation, ...]
    reports: dict[str, QuantizationReport]
    """By the model's name in the comparison."""
    folder: Path
    files: dict[str, Path]
    """By what they are: "report", "figure", "comparison", and the masks and quantized models by their model's name."""

    def rows(self) -> list[dict[str, Any]]:
        """One row for each model, FP32 first, as JSON has it."""
        rows = []
        for data in self.comparison.to_dict()["models"]:
            row = {name: data[name] for name in ROW}
            report = self.reports.get(row["name"])
            row["seconds_to_quantize"] = report.seconds["total"] if report else None
            row["mask"] = str(self.files[f"mask {row['name']}"])
            rows.append(row)
        return rows


def phantom_case(
    seed: int = 0, *, progress: ProgressCallback | None = None, cancelled: CancelCheck | None = None
) -> DemoCase:
    """The procedural abdominal CT with its own labels, and a box around each organ on each slice."""
    from medquant.embedded.phantom import make_phantom

    array, labels, names, affine = make_phantom(seed, progress=progress, cancelled=cancelled)
    volume = Volume(array, affine, name="phantom", modality="CT")
    structures = tuple(Structure(label, name) for label, name in names.items())
    reference = Segmentation(labels, volume, structures, model_name="phantom's labels")
    return DemoCase(
        volume,
        scan="Abdominal CT phantom, procedural",
        reference=reference,
        reference_from="the phantom's own labels",
        prompt=boxes_from_labels(labels, volume, structures, per_slice=True),
        boxes_from="around the phantom's own labels on each slice, as the papers do",
        made_here=True,
    )


def run_demo(
    model: Model,
    case: DemoCase,
    folder: str | Path,
    *,
    bits: Sequence[int] = BITS,
    recipe: Recipe | None = None,
    selection: CalibrationSelection | None = None,
    details: ReportDetails | None = None,
    device: str = "auto",
    tolerance_mm: float = 2.0,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> DemoResult:
    """Segment with `model` and with its quantized versions, compare, and write everything to `folder`.

    Each version is calibrated on the scan itself, unlabelled, as the open volume is in use; it is saved, and loaded
    again from its file before it segments, so its size and its masks are those of the file. Models that take boxes
    use `case.prompt`. Raises `UserError` and `Cancelled` as the steps do; then nothing is written.
    """
    tracker = Progress(progress, cancelled)
    recipe, selection = recipe or Recipe(), selection or CalibrationSelection()
    prompt = case.prompt if takes_boxes(model) else None
    once = 0.92 / (1 + (1 + QUANTIZING) * len(bits))  # part of the whole that one segmentation is
    with _all_or_nothing(Path(folder)) as (staging, files):
        if prompt is not None:
            # PyTorch makes its kernels ready, so that the first model is not timed slower than the others.
            first = _first_slice(prompt, case.volume)
            segment(model, case.volume, prompt=first, **tracker.span(0.0, 0.01).callbacks("Warming up"))
            model.forget()
        fp32 = segment(model, case.volume, prompt=prompt, **tracker.span(0.01, once).callbacks("FP32"))
        model.forget()
        facts: list[ModelFacts] = [facts_of(model, device=_device_of(model))]
        segmentations, reports = [replace(fp32, model_name=facts[0].name)], {}
        for number, width in enumerate(bits):
            start = once * (1 + number * (1 + QUANTIZING))
            quantized_at = start + once * QUANTIZING
            wanted = replace(recipe, weights=replace(recipe.weights, bits=width))
            part = tracker.span(start, quantized_at).callbacks(f"{width} bits")
            made = quantize(model, case.volume, recipe=wanted, selection=selection, **part)
            model.forget()
            file = staging / f"{model.name}-{wanted.label.lower()}.mq.safetensors"
            made.save(file)
            quantized = load_model(file, device=device)
            part = tracker.span(quantized_at, quantized_at + once).callbacks(f"{width} bits")
            found = segment(quantized, case.volume, prompt=prompt, **part)
            fact = facts_of(quantized, device=_device_of(quantized.model))
            facts.append(replace(fact, bytes_fp32=facts[0].bytes_fp32))  # one network, one yardstick
            segmentations.append(replace(found, model_name=fact.name))
            reports[fact.name] = made.report
            files[f"model {fact.name}"] = file
        part = tracker.span(0.92, 0.97).callbacks()
        comparison = compare(segmentations, reference=case.reference, tolerance_mm=tolerance_mm, facts=facts, **part)
        tracker.report(0.97, "Writing masks and the report")
        _write(staging, files, case, comparison, segmentations, reports, details)
        tracker.report(1.0, "Done")
    return DemoResult(comparison, tuple(segmentations), reports, Path(folder), files)


def takes_boxes(model: Model) -> bool:
    """Whether a person tells this model by a box what to segment."""
    return model.takes_boxes


def _write(
    folder: Path,
    files: dict[str, Path],
    case: DemoCase,
    comparison: Comparison,
    segmentations: Sequence[Segmentation],
    reports: dict[str, QuantizationReport],
    details: ReportDetails | None,
) -> None:
    for summary, segmentation in zip(comparison.summary, segmentations, strict=True):
        word = "fp32" if summary.weight_bits == 32 else f"w{summary.weight_bits}"
        files[f"mask {summary.name}"] = save_segmentation(segmentation, folder / f"{word}.seg.nrrd")
    files["report"] = write_report(folder / "report.html", comparison, segmentations, details=details, layers=reports)
    files["figure"] = folder / "figure.png"
    contact_sheet(files["figure"], segmentations, comparison=comparison)
    files["comparison"] = folder / "comparison.json"
    comparison.write_json(files["comparison"])
    files["table"] = folder / "comparison.csv"
    comparison.write_csv(files["table"])
    if case.made_here and case.reference is not None:
        files["scan"] = folder / f"{case.volume.name}.nii.gz"
        write_volume(case.volume, files["scan"])
        files["reference"] = save_segmentation(case.reference, folder / f"{case.volume.name}-labels.seg.nrrd")


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A staging folder and a table of files in it, moved to `folder` at the end; after a failure all is as before."""
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    except OSError as error:
        raise UserError(f"Cannot write in {folder}: {error.strerror}. Choose a folder where you may write.") from error
    files: dict[str, Path] = {}
    try:
        yield staging, files
        _move_all(files, folder, replaced=Path(tempfile.mkdtemp(dir=staging)))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


def _move_all(files: dict[str, Path], folder: Path, *, replaced: Path) -> None:
    """Move every file to `folder`, and the ones of the same names there to `replaced`: all of them, or none."""
    with ExitStack() as undo:
        for name, file in files.items():
            target, kept = folder / file.name, replaced / file.name
            with replacing(target):
                if target.is_file():
                    target.replace(kept)
                    undo.callback(kept.replace, target)
                    file.replace(target)
                else:
                    file.replace(target)
                    undo.callback(target.unlink)
            files[name] = target
        undo.pop_all()


def _first_slice(prompt: BoxPrompt, volume: Volume) -> BoxPrompt:
    """The first box on the first of its slices."""
    lower, upper, axis = resolve_box(prompt.boxes[0], volume)
    upper = tuple(lower[i] if i == 2 - axis else upper[i] for i in range(3))
    return BoxPrompt((replace(prompt.boxes[0], lower=lower, upper=upper, space="ijk"),))


def _device_of(model: Model) -> str:
    return device_of(model.network).type.upper()
