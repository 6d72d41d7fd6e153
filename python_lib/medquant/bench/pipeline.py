"""The whole way of nnU-Net from file to file: nnunetv2's own predictor against medquant, in one run.

Every engine runs in a process of its own, one after the other, reads the same NIfTI file and writes its mask. `seconds`
counts from the scan's file to the mask's file with the model ready, as for the second of several scans; what loading
the model took is the stage "model". Runtimes compile a model once and keep it for the user: that is done before, in
another process, and stands in the row as `first_use`. Memory is the largest resident memory of the process, its
imports and the model included. Masks are compared with nnunetv2's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medquant.bench.child import run_step
from medquant.bench.pipeline_model import write_model
from medquant.errors import UserError
from medquant.evaluation.metrics import mean_dice
from medquant.models.nnunet_folder import configuration_folder
from medquant.progress import CancelCheck, Progress, ProgressCallback

PEER = "nnunetv2"


@dataclass(frozen=True)
class Contender:
    """What runs: nnunetv2, or medquant by a runtime in a precision."""

    runtime: str
    precision: str

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{PEER} {metadata.version(PEER)}" if self.runtime == PEER else f"medquant {self.runtime}"


CONTENDERS = {
    "nnunetv2": Contender(PEER, "fp32"),
    "pytorch-fp32": Contender("pytorch", "fp32"),
    "openvino-fp32": Contender("openvino", "fp32"),
    "openvino-bf16": Contender("openvino", "bf16"),
    "openvino-int8": Contender("openvino", "int8"),
}
CASES = {"20": "ct_abdomen_dicom, 512 x 512 x 20", "200": "phantom, 512 x 512 x 200"}


def run(
    *,
    data: Path | None = None,
    weights: Path | None = None,
    int8: Path | None = None,
    scan: Path | None = None,
    cases: Sequence[str] = tuple(CASES),
    contenders: Sequence[str] = tuple(CONTENDERS),
    mirroring: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """One row for each case and contender, nnunetv2 first.

    `data`: the folder with `ct_abdomen_dicom`, for the case of 20 slices. `weights`: an nnU-Net results folder; None:
    a network of full size that is made here (`medquant.bench.pipeline_model`). `int8`: the same network, quantized;
    None: made here, which takes long for a large one. `scan`: a NIfTI file instead of the
    cases. `mirroring`: average over mirrored
    patches, as nnU-Net's training allows: eight times the work of every engine. Raises `UserError` for what is not
    there, or where an engine fails.
    """
    for chosen, known in ((cases, CASES), (contenders, CONTENDERS)):
        if unknown := [name for name in chosen if name not in known]:
            raise UserError(f"There is no {', '.join(unknown)} here. Choose among {', '.join(known)}.")
    tracker = Progress(progress, cancelled)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tracker.report(0.0, "Making the network" if weights is None else "Reading the network")
        results = write_model(folder / "results") if weights is None else configuration_folder(weights)
        jobs = _Jobs(folder, results, mirroring, threads, int8)
        rows = []
        chosen = [CONTENDERS[name] for name in contenders]
        if scan is not None:
            return _rows(scan.name, scan, chosen, jobs, tracker)
        for number, case in enumerate(cases):
            part = tracker.span(number / len(cases), (number + 1) / len(cases))
            part.report(0.0, f"Making the scan of {case} slices")
            rows += _rows(CASES[case], _scan(case, data, folder), chosen, jobs, part)
        return rows


@dataclass
class _Jobs:
    """What all engines share: where files go, and the weights."""

    folder: Path
    results: Path
    mirroring: bool
    threads: int | None
    quantized: Path | None = None

    @property
    def suffix(self) -> str:
        """Of the masks that this nnU-Net writes."""
        return str(json.loads((self.results / "dataset.json").read_text(encoding="utf-8"))["file_ending"])

    def weights_for(self, contender: Contender, tracker: Progress) -> Path:
        """The results folder, or the INT8 model that is made of it once."""
        if contender.precision != "int8":
            return self.results
        if self.quantized is None:
            self.quantized = self.folder / "int8.mq.safetensors"
            quantize_to(self.quantized, self.results, mirroring=self.mirroring, tracker=tracker)
        return self.quantized


def _rows(
    case: str, scan: Path, contenders: Sequence[Contender], jobs: _Jobs, tracker: Progress
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    truth: np.ndarray | None = None
    for number, contender in enumerate(contenders):
        part = tracker.span((number + 0.1) / len(contenders), (number + 1) / len(contenders))
        part.report(0.0, f"{case}: {contender.name} {contender.precision}")
        weights = jobs.weights_for(contender, part)
        mask = jobs.folder / f"{contender.runtime}-{contender.precision}{jobs.suffix}"
        first_use = None
        if contender.runtime not in (PEER, "pytorch"):
            prepared, most = run_alone(contender, weights, scan, mask, jobs, part, only_prepare=True)
            first_use = {"seconds": prepared["model"], "peak_memory_mb": most}
        stages, peak = run_alone(contender, weights, scan, mask, jobs, part)
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))
        truth = labels if contender.runtime == PEER else truth
        agreement = None if truth is None else mean_dice(labels, truth)
        row = {
            "case": case,
            "engine": contender.name,
            "precision": contender.precision,
            "seconds": sum(seconds for name, seconds in stages.items() if name != "model"),
            "peak_memory_mb": peak,
            "dsc_vs_peer": 1.0 if agreement is None and truth is not None else agreement,
            "differing_voxels": None if truth is None else int((labels != truth).sum()),
            "stages": stages,
            "mirroring": jobs.mirroring,
            "first_use": first_use,
        }
        if rows and truth is not None:
            row["speedup_vs_peer"] = rows[0]["seconds"] / row["seconds"]
            row["memory_vs_peer"] = row["peak_memory_mb"] / rows[0]["peak_memory_mb"]
        rows.append(row)
    return rows


def run_alone(
    contender: Contender,
    weights: Path,
    scan: Path,
    mask: Path,
    jobs: _Jobs,
    tracker: Progress,
    *,
    only_prepare: bool = False,
) -> tuple[dict[str, float], float]:
    """Run one engine in a process of its own: seconds by stage, and its peak resident memory in MB.

    `only_prepare`: load and compile the model, and end.
    """
    job = {
        "engine": PEER if contender.runtime == PEER else "medquant",
        "runtime": contender.runtime,
        "precision": contender.precision,
        "weights": str(weights),
        "folds": [fold.name.removeprefix("fold_") for fold in sorted(jobs.results.glob("fold_*"))],
        "scan": str(scan),
        "mask": str(mask),
        "mirroring": jobs.mirroring,
        "threads": jobs.threads,
        "only_prepare": only_prepare,
    }
    return run_step("medquant.bench.pipeline_engine", job, jobs.folder, tracker.check, name=contender.name)


def quantize_to(target: Path, results: Path, *, mirroring: bool, tracker: Progress) -> None:
    """Write the model with 8-bit weights and inputs, calibrated on a phantom that no case shows."""
    from medquant.activation_settings import IntActivations
    from medquant.embedded.phantom import make_phantom
    from medquant.imaging.volume import Volume
    from medquant.models.base import CalibrationSelection
    from medquant.models.nnunet import NnUNetModel
    from medquant.quantize import quantize
    from medquant.recipe import CalibrationSettings, IntWeights, Recipe

    tracker.report(0.0, "Quantizing to 8 bits")
    array, _, _, affine = make_phantom(seed=7, shape=(64, 192, 192), spacing=(3.0, 2.0, 2.0))
    model = NnUNetModel.load(results, mirroring=mirroring)
    volume = Volume(array, affine, "phantom", "CT")
    # Eight bits need no solver.
    plain = CalibrationSettings(sequential=False, shrink=False)
    weights, activations = IntWeights(8, symmetric=True), IntActivations(8, symmetric=True, dither=False)
    recipe = Recipe(weights=weights, method="rtn", activations=activations, calibration=plain)
    quantized = quantize(
        model,
        volume,
        recipe=recipe,
        selection=CalibrationSelection(count=1),
        progress=lambda event: tracker.report(0.0, event.message),
        cancelled=tracker.cancelled,
    )
    quantized.save(target)


def _scan(case: str, data: Path | None, folder: Path) -> Path:
    """A NIfTI file, which nnunetv2 reads as well."""
    from medquant.imaging.itk_file import image_of
    from medquant.imaging.reading import read_volume

    target = folder / f"scan-{case}_0000.nii.gz"
    if case == "20":
        if data is None:
            raise UserError("The case of 20 slices is a real scan. Give the data folder with --data.")
        volume = read_volume(data / "ct_abdomen_dicom" / "series")
        array, affine = volume.array, volume.affine
    else:
        from medquant.embedded.phantom import make_phantom

        array, _, _, affine = make_phantom(seed=1, shape=(200, 512, 512), spacing=(1.5, 0.8, 0.8))
    sitk.WriteImage(image_of(np.ascontiguousarray(array), affine), str(target), True)
    return target
