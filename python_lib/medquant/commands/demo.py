"""`medquant demo`: the main job in one command."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import Session, output_folder, session, strong
from medquant.errors import UserError
from medquant.models.catalogue import DEMONSTRATES
from medquant.progress import Progress

if TYPE_CHECKING:
    from medquant.demo import DemoCase, DemoResult
    from medquant.imaging.volume import Volume
    from medquant.models.base import Model
    from medquant.prompts import BoxPrompt

EXAMPLES = o.examples(
    "medquant demo",
    "medquant demo --volume ct.nii.gz --reference organs.nii.gz --names 1=spleen,5=liver",
    "medquant demo --model medsam --volume /data/series --box liver=60,110,2,300,340,17",
)
MAKING_PHANTOM = 0.05
"""Part of the whole that is over when the phantom is made."""


def demo(
    volume: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Your own scan: file or DICOM folder. (default: a CT phantom)", rich_help_panel=o.SCAN
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS", help="Its reference segmentation; the boxes are drawn from it.", rich_help_panel=o.SCAN
        ),
    ] = None,
    names: o.Names = None,
    structures: Annotated[
        str | None,
        typer.Option(metavar="liver,spleen", help="Which structures of --reference.", rich_help_panel=o.SCAN),
    ] = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    box: o.Boxes = None,
    box_world: o.WorldBoxes = None,
    plane: o.Plane = None,
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    device: o.Device = "auto",
    option: o.ModelOptions = None,
    bits: Annotated[str, typer.Option(metavar="8,4,2", help="Bits of the quantized versions.")] = "8,4,2",
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="permutation-comq (default), comq, gptq or rtn."),
    ] = None,
    slices: Annotated[int, typer.Option(min=1, metavar="N", help="Slices (or 3-D patches) that calibrate.")] = 8,
    output: Annotated[str, o.output("Folder for everything it writes.", "FOLDER")] = "medquant-output",
    open_report: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the report where there is a display.")
    ] = True,
    json_target: o.Json = None,
) -> None:
    """Quantize a model with a scan and see what it costs: FP32 and 8-, 4- and 2-bit masks side by side.

    Without options: the embedded model on a CT phantom, in under three minutes. The folder of --output then holds
    the report, the masks, the quantized models and, for the phantom, the scan itself.
    """
    from medquant.commands.inputs import open_original, open_volume, parse_boxes
    from medquant.demo import phantom_case, run_demo
    from medquant.evaluation.report import ReportDetails
    from medquant.models.base import CalibrationSelection
    from medquant.recipe import Recipe

    with session(json_target) as run:
        chosen_bits = parse_bits(bits)
        recipe = Recipe() if method is None else Recipe(method=method)
        folder = output_folder(output)
        if volume is None and (reference or box or box_world):
            raise UserError("--reference and --box belong to a scan of your own. Give it with --volume.")
        case = None
        if volume is not None:  # not tracked: Ctrl-C ends the reading of a scan at once
            case = own_case(
                open_volume(volume, series=series, component=component, frame=frame),
                None if reference is None else (reference, names, structures),
                parse_boxes(box, box_world, plane),
                plane,
            )
        with run.track("Loading the model") as callbacks:
            whole = Progress(*callbacks)
            loaded = open_original(model, weights, device, option, **whole.span(0.0, 0.01).callbacks())
            case = case or phantom_case(**whole.span(0.01, MAKING_PHANTOM).callbacks())
            explain(run, loaded, case, slices)
            details = ReportDetails(
                model=loaded.name,
                scan=case.scan,
                reference=case.reference_from,
                calibration=f"{slices} slices of this scan, unlabelled",
                demonstration=DEMONSTRATES.get(model, ""),
                weights_hash=loaded.weights_hash,
                licence=loaded.licence,
            )
            result = run_demo(
                loaded,
                case,
                folder,
                bits=chosen_bits,
                recipe=recipe,
                selection=CalibrationSelection(count=slices),
                details=details,
                device=device,
                **whole.span(MAKING_PHANTOM if case.made_here else 0.01, 1.0).callbacks(),
            )
        show(run, result, DEMONSTRATES.get(model, ""))
        run.finish(result.rows())
    if open_report and json_target != "-" and has_display():
        webbrowser.open(result.files["report"].resolve().as_uri())


def parse_bits(text: str) -> tuple[int, ...]:
    """`8,4,2` as numbers. Raises `UserError`."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdigit() and 2 <= int(word) <= 8 for word in words):
        raise UserError(f"{text!r} are not numbers of bits. Give some of 2 to 8, e.g. 8,4,2.")
    return tuple(dict.fromkeys(int(word) for word in words))


def own_case(
    scan: Volume, reference: tuple[str, str | None, str | None] | None, prompt: BoxPrompt | None, plane: str | None
) -> DemoCase:
    """A scan of the user's, with boxes as typed or, on each slice, around the reference (file, names, structures)."""
    from medquant.commands.inputs import check_plane, read_reference
    from medquant.demo import DemoCase
    from medquant.imaging.boxes import boxes_from_labels

    labels = None if reference is None else read_reference(scan, *reference)
    boxes_from = "as given" if prompt is not None else ""
    if prompt is None and labels is not None:
        boxes_from = "around the reference on each slice, as the papers do"
        prompt = boxes_from_labels(labels.labels, scan, labels.structures, per_slice=True, plane=check_plane(plane))
    return DemoCase(
        scan,
        scan=f"{scan.modality or 'Scan'} of the user's",
        reference=labels,
        reference_from="given by the user" if labels is not None else "",
        prompt=prompt,
        boxes_from=boxes_from,
    )


def explain(run: Session, model: Model, case: DemoCase, slices: int) -> None:
    """Say what will be done, before it is done."""
    from medquant.demo import takes_boxes

    k, j, i = case.volume.shape
    size = f"{i} \N{MULTIPLICATION SIGN} {j} \N{MULTIPLICATION SIGN} {k} voxels"
    run.say(escape(f"{case.scan}, {size}. Model: {model.name}."))
    if takes_boxes(model):
        if case.prompt is None:
            raise UserError(
                f"{model.name} needs a box around each structure. Give --box or --reference, "
                "or use --model embedded-nnunet."
            )
        count = len({box.label for box in case.prompt.boxes})
        run.say(f"Boxes for {count} structure{'s' if count > 1 else ''}, drawn {case.boxes_from}.")
    run.say(f"Each version is calibrated on {slices} unlabelled slices of this scan.\n")


def show(run: Session, result: DemoResult, demonstrates: str) -> None:
    """The table, what it means, and where everything is."""
    from medquant.commands.tables import models_table
    from medquant.evaluation import verdict, wording

    models = result.comparison.summary
    run.console.print(models_table(models, has_reference=result.comparison.has_reference))
    best = wording.smallest_as_fp32(models[1:])
    if best is not None:
        run.say(
            f"\nSmallest with masks as FP32: {strong(wording.short_names(models)[best.name])}, {wording.saving(best)}."
        )
    run.say(
        f"\nMeans over the structures; Dice and NSD ({result.comparison.tolerance_mm:g} mm) are 1 for equal masks. "
        f"{verdict.describe()} "
        "Simulated: weights are decoded to float32 to run, so the files are smaller and running is not faster. "
        "Size of FP32: 4 bytes for each weight, whatever its file stores them in. "
        "Process memory counts all that is held, other models too."
    )
    run.say(f"{demonstrates} Not for clinical use.".strip())
    run.say(f"\nReport: {strong(result.files['report'].resolve())}")
    run.say(f"Masks, quantized models, numbers: {escape(str(result.folder.resolve()))}")


def has_display() -> bool:
    """Whether a browser can show itself to the person who typed the command."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
