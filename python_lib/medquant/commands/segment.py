"""`medquant segment`: masks of one scan with one model."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import Session, output_file, output_told, session
from medquant.errors import UserError

if TYPE_CHECKING:
    from medquant.prompts import BoxPrompt
    from medquant.segmentation import Segmentation

EXAMPLES = o.examples(
    "medquant segment ct.nii.gz --box liver=120,90,20,330,300,48",
    "medquant segment ct.nii.gz --model nnunet --weights results/ --output organs.nii.gz",
    "medquant segment /data/series --model medsam-w4.mq.safetensors --boxes-from drawn.seg.nrrd",
)


def segment(
    volume: Annotated[str, typer.Argument(help="NIfTI, NRRD or MetaImage file, or a DICOM folder.")],
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    output: Annotated[
        str | None,
        o.output("The masks: .seg.nrrd (3D Slicer), .nii.gz, .nrrd, .mha or .dcm. (default: SCAN-MODEL.seg.nrrd)"),
    ] = None,
    box: o.Boxes = None,
    box_world: o.WorldBoxes = None,
    boxes_from: Annotated[
        str | None,
        typer.Option(metavar="LABELS", help="Boxes around the structures of a label file.", rich_help_panel=o.BOXES),
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(metavar="liver,spleen", help="Which of them; all by default.", rich_help_panel=o.BOXES),
    ] = None,
    per_slice: Annotated[
        bool,
        typer.Option(help="With --boxes-from: a box on each slice, not one in 3-D.", rich_help_panel=o.BOXES),
    ] = False,
    margin: Annotated[
        int, typer.Option(min=0, metavar="N", help="With --boxes-from: voxels added around.", rich_help_panel=o.BOXES)
    ] = 0,
    plane: o.Plane = None,
    names: o.Names = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    precision: o.Precision = "auto",
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Segment a scan with an FP32 or a quantized model.

    MedSAM and the embedded model need a box around each structure (--box, --box-world or --boxes-from); a 3-D box
    means every slice that it crosses. nnU-Net and MONAI networks find the structures themselves. The masks lie on
    the scan's own grid.

    --runtime auto measures which runtime is fastest here, once for each model, and remembers it (medquant cache).
    """
    started = time.perf_counter()
    from medquant.commands.inputs import file_word, open_model, open_volume, parse_boxes, read_reference, series_choice
    from medquant.deploy.accelerate import accelerate
    from medquant.imaging.writing import SUFFIXES, save_segmentation
    from medquant.segment import segment as run_segment

    with session(json_target) as run:
        prompt = parse_boxes(box, box_world, plane)
        if prompt is not None and boxes_from is not None:
            raise UserError("Boxes are given twice. Use either --box and --box-world, or --boxes-from.")
        if output is not None and not output.lower().endswith(SUFFIXES):
            raise UserError(f"{Path(output).name} has no known suffix for masks. Use one of {', '.join(SUFFIXES)}.")
        target = None if output is None else output_file(output)
        began = time.perf_counter()
        scan = open_volume(volume, series=series, component=component, frame=frame)
        read = time.perf_counter() - began
        if boxes_from is not None:
            drawn = read_reference(scan, boxes_from, names, structures)
            prompt = _boxes_around(drawn, per_slice, margin, plane)
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_model(model, weights, device, option, progress, cancelled)
            target = target or output_file(f"{file_word(scan.name)}-{file_word(loaded.name)}.seg.nrrd")
            if Path(volume).expanduser().resolve() == target.resolve():
                raise UserError(f"{target} is the scan itself. Give --output another name.")
            getattr(loaded, "model", loaded).require_prompt(prompt, scan)
            loaded = accelerate(loaded, runtime, precision=precision, progress=progress, cancelled=cancelled)
            begin = time.perf_counter() - started - read
            found = run_segment(loaded, scan, prompt=prompt, progress=progress, cancelled=cancelled)
        began, told = time.perf_counter(), output_told(target)
        save_segmentation(found, target, source=volume, series=series_choice(series), frame=frame)
        seconds = _Seconds(begin, read, time.perf_counter() - began, time.perf_counter() - started)
        _show(run, found, seconds, target, told)


@dataclass(frozen=True)
class _Seconds:
    """Where the time of the command went, beside segmenting."""

    start: float
    """Libraries, the model, and the choice of a runtime."""
    read: float
    write: float
    whole: float


def _boxes_around(drawn: Segmentation, per_slice: bool, margin: int, plane: str | None) -> BoxPrompt:
    from medquant.commands.inputs import check_plane
    from medquant.imaging.boxes import boxes_from_labels

    return boxes_from_labels(
        drawn.labels, drawn.volume, drawn.structures, per_slice=per_slice, margin=margin, plane=check_plane(plane)
    )


def _show(run: Session, found: Segmentation, took: _Seconds, target: Path, told: str) -> None:
    import numpy as np

    from medquant.evaluation import wording
    from medquant.segmentation import Execution

    counts = np.bincount(found.labels.ravel(), minlength=1 + max((s.label for s in found.structures), default=0))
    volumes = {s.name: float(counts[s.label] * found.volume.voxel_volume_ml) for s in found.structures}
    for name, millilitres in volumes.items():
        run.console.print(f"{name}: {wording.volume(millilitres)} mL", markup=False, highlight=False)
    execution = found.execution or Execution()
    run.say(f"Computed by {escape(execution.describe())}.")
    if execution.reason:
        run.say(escape(execution.reason))
    stages = ", ".join(f"{stage} {wording.seconds(seconds)}" for stage, seconds in found.stages.items())
    at_once = " (partly at the same time)" if sum(found.stages.values()) > found.seconds else ""
    run.say(
        f"{escape(found.model_name)}: {wording.seconds(found.seconds)}, {wording.memory(found.peak_memory_mb)} of "
        f"memory; {stages}{at_once}."
    )
    run.say(
        f"With start (libraries, model, runtime) {wording.seconds(took.start)}, reading "
        f"{wording.seconds(took.read)} and writing {wording.seconds(took.write)} the command took "
        f"{wording.seconds(took.whole)}."
    )
    run.say(f"Masks: {told}")
    run.finish(
        {
            "model": found.model_name,
            "output": str(target),
            "seconds": found.seconds,
            "stages": {"load": took.read, **found.stages, "write": took.write},
            "start_seconds": took.start,
            "command_seconds": took.whole,
            **asdict(execution),
            "peak_memory_mb": found.peak_memory_mb,
            "structures": [{"label": s.label, "name": s.name, "volume_ml": volumes[s.name]} for s in found.structures],
        }
    )
