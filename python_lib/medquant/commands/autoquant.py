"""`medquant autoquant`: the smallest model that is still safe, found with scans of one's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.recipes import build_recipe, build_selection
from medquant.commands.session import Session, output_file, output_told, session

if TYPE_CHECKING:
    from medquant.mixed.held_out import Tried
    from medquant.mixed.search import SafeModel

EXAMPLES = o.examples(
    "medquant autoquant ct.nii.gz --keep-dice 0.99",
    "medquant autoquant ct.nii.gz --box liver=120,90,20,330,300,48",
    "medquant autoquant ct.nii.gz --model nnunet --weights results/ --keep-volume 1",
)


def autoquant(
    volumes: Annotated[
        list[str],
        typer.Argument(metavar="VOLUME...", help="Scans to calibrate and check with: files or DICOM folders."),
    ],
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    keep_dice: Annotated[
        float | None,
        typer.Option(
            metavar="DICE",
            help="Mean Dice against FP32 that the masks must keep; .99 if not given, .95 beside --keep-volume.",
        ),
    ] = None,
    keep_volume: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Volume change of any structure that is allowed.")
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option("--bits", "-b", metavar="N", help="Repeatable; 2, 3, 4 and 8 if not given.")
    ] = None,
    output: Annotated[str | None, o.output("The quantized model's file. (default: MODEL-safe.mq.safetensors)")] = None,
    slices: Annotated[
        int, typer.Option(min=2, metavar="N", help="Slices (or 3-D patches) of each scan; a third of them checks.")
    ] = 9,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="permutation-comq (default), comq, gptq or rtn.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Layers left in floating point, e.g. 'mask_decoder.*'. Repeatable."),
    ] = None,
    max_memory: Annotated[str | None, o.max_memory()] = None,
    box: o.Boxes = None,
    box_world: o.WorldBoxes = None,
    plane: o.Plane = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    device: o.Device = "auto",
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Find the smallest model whose masks stay as they are: bits for each layer by how much it matters.

    Every layer is rounded by itself to see what that does to the output; then candidates are quantized, and segment
    a part of the scan that did not calibrate, until the smallest one is found whose masks are within the tolerance. No
    labels are needed: the masks are compared with those of the FP32 model. Takes some minutes, with a 3-D network more.

    Models that take boxes are checked with those that you give (--box, --box-world), else with boxes drawn at random.
    """
    from medquant.commands.inputs import file_word, open_original, open_volume, parse_boxes, parse_memory
    from medquant.mixed.plan import BITS
    from medquant.mixed.search import DSC_BESIDE_VOLUME, Tolerance, smallest_safe_model

    with session(json_target) as run:
        allowed = None if keep_volume is None else keep_volume / 100
        usual = Tolerance.dsc if allowed is None else DSC_BESIDE_VOLUME
        tolerance = Tolerance(usual if keep_dice is None else keep_dice, allowed)
        recipe = build_recipe(None, None, method, None, None)
        selection = build_selection(slices, None, None, None)
        memory, prompt = parse_memory(max_memory), parse_boxes(box, box_world, plane)
        target = None if output is None else output_file(output)
        scans = [open_volume(path, series=series, component=component, frame=frame) for path in volumes]
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_original(model, weights, device, option, progress, cancelled)
            target = target or output_file(f"{file_word(loaded.name)}-safe.mq.safetensors")
            found = smallest_safe_model(
                loaded,
                scans,
                tolerance=tolerance,
                recipe=recipe,
                bits=tuple(bits or BITS),
                selection=selection,
                ignore=ignore or (),
                max_memory_mb=memory,
                prompt=prompt,
                tried=lambda one: run.say(_line(one)),
                progress=progress,
                cancelled=cancelled,
            )
        told = output_told(target)
        size = found.quantized.save(target)
        _show(run, found, size, told)
        run.finish({"model": found.quantized.name, "output": str(target), **found.to_dict(), "bytes_on_disk": size})


def _line(one: Tried) -> str:
    from medquant.evaluation import wording

    verdict = "safe" if one.safe else "not safe"
    change = one.change
    return (
        f"  {one.effective_bits:.2f} bits/weight: Dice {wording.score(change.dsc)}, volumes within "
        f"{change.volume_change:.1%}: {verdict}"
    )


def _show(run: Session, found: SafeModel, size: int, told: str) -> None:
    from medquant.evaluation import wording

    report, change, checked = found.quantized.report, found.change, found.checked
    counted = Counter(found.allocation.of().values())
    layers = ", ".join(f"{counted[bits]} of {bits} bits" for bits in sorted(counted))
    asked = escape(found.tolerance.describe())
    if found.safe:
        run.say(f"The smallest model with {asked} on {checked.describe()}:")
    else:
        run.say(f"No model keeps {asked}. The most precise that was tried, which does not:")
    run.say(
        f"{wording.size(4 * report.parameters)} in FP32, {wording.size(size)} now; {wording.stored_bits(report)}; "
        f"layers: {layers}"
    )
    worst = f", lowest {wording.score(change.worst_dsc)} ({escape(change.worst)})" if change.worst else ""
    run.say(
        f"On {checked.describe()}, no voxel of which calibrated it, but which chose it among {len(found.tried)} "
        f"candidates: mean Dice {wording.score(change.dsc)}{worst}, "
        f"volumes within {change.volume_change:.1%}"
    )
    run.say(
        f"Segments them in {wording.seconds(checked.seconds)}, FP32 in {wording.seconds(checked.seconds_fp32)} "
        f"({checked.computed_by}); searched for {wording.seconds(found.seconds)}"
    )
    run.say(f"Quantized model: {told}")
