"""`medquant quantize`: a smaller model, calibrated on scans of one's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.recipes import build_recipe, build_selection, with_activations, with_rewrites
from medquant.commands.session import Session, output_file, output_told, session, strong

if TYPE_CHECKING:
    from medquant.calibration_inputs import PreparedInputs
    from medquant.imaging.volume import Volume
    from medquant.models.base import CalibrationSelection, Model
    from medquant.progress import Progress
    from medquant.quantized_model import QuantizedModel
    from medquant.recipe import Recipe

EXAMPLES = o.examples(
    "medquant quantize ct.nii.gz --bits 4",
    "medquant quantize /data/series --model nnunet --weights results/ --bits 2 --output small.mq.safetensors",
)
MOST_KEPT = 5
"""Layers kept in floating point for one reason that are told one by one; of more, how many there are."""
_CALIBRATION = "Calibration"
_RECIPE = "Recipe (the defaults are the best that is known)"


def quantize(
    volumes: Annotated[
        list[str], typer.Argument(metavar="VOLUME...", help="Scans to calibrate with: files or DICOM folders.")
    ],
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    bits: Annotated[
        int | None, typer.Option("--bits", "-b", metavar="N", help="Bits of a weight: 2 to 8. (default: 4)")
    ] = None,
    activations: Annotated[
        int | None,
        typer.Option(
            "--activations",
            "-a",
            metavar="N",
            help="Bits of what flows between the layers too: 8 is faster on integer kernels, 4 costs accuracy.",
        ),
    ] = None,
    output: Annotated[str | None, o.output("The quantized model's file. (default: MODEL-BITS.mq.safetensors)")] = None,
    slices: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Slices (or 3-D patches) of each scan.", rich_help_panel=_CALIBRATION),
    ] = 8,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="body: where the body is; even: over the whole scan; range: from --first to --last. (default: body)",
            rich_help_panel=_CALIBRATION,
        ),
    ] = None,
    first: Annotated[
        int | None, typer.Option(metavar="N", help="First slice, from 0.", rich_help_panel=_CALIBRATION)
    ] = None,
    last: Annotated[
        int | None, typer.Option(metavar="N", help="Last slice, inclusive.", rich_help_panel=_CALIBRATION)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of what is drawn.", rich_help_panel=_CALIBRATION)] = 0,
    max_memory: Annotated[str | None, o.max_memory(_CALIBRATION)] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="permutation-comq (default), comq, gptq or rtn.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="per-channel (default), per-tensor or per-group-64.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--symmetric/--asymmetric", help="Grid around zero or not.", rich_help_panel=_RECIPE)
    ] = None,
    activation_granularity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="per-tensor (default), per-channel, per-token, per-voxel or adaptive; all but the first simulated.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    activation_mode: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="static (default): ranges found on the calibration slices; dynamic: on each input.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    activation_dither: Annotated[
        bool | None,
        typer.Option(
            "--activation-dither/--no-dither",
            help="Move the grid from voxel to voxel: closer masks, one more pass over each input. "
            "By default up to 6 bits.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    float_share: Annotated[
        float | None,
        typer.Option(
            metavar="PART",
            help="Leave the inputs in floating point whose rounding costs most, up to this part of the arithmetic "
            "(0.15): closer masks, somewhat slower. Found on the calibration slices, a pass for each layer. Belongs to "
            "--activations.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    rewrite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Rewrite all layers first, keeping their function: smoothing, low-rank, rotation or equalization "
            "(medquant rewrites tells what each is worth). Repeatable.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    redesign: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Make a different model first: convolutions of 1x3x3 with such names become 1x1x1 ('*': all of them), "
            "and the network is trained a little on the calibration slices. Repeatable.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Layers left in floating point, e.g. 'mask_decoder.*'. Repeatable.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    recipe_file: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="FILE", help="A recipe in JSON; the options above change it.", rich_help_panel=_RECIPE
        ),
    ] = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    device: o.Device = "auto",
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Make a model smaller: its weights become integers of 2 to 8 bits, fitted on slices of your own scans.

    The scans are not labelled and not stored: the file holds the codes, the recipe and a hash. With --activations 8 the
    model runs on integer kernels as well, which is faster where the processor has them (medquant doctor tells).
    Otherwise weights are decoded when the model runs: the file is smaller, segmenting is not faster ("simulated").
    """
    from medquant.commands.inputs import file_word, open_original, open_volume, parse_memory
    from medquant.mixed.float_inputs import require_share
    from medquant.progress import Progress
    from medquant.quantize import quantize as run_quantize

    with session(json_target) as run:
        recipe = build_recipe(recipe_file, bits, method, granularity, symmetric)
        recipe = with_activations(recipe, activations, activation_granularity, activation_mode, activation_dither)
        recipe = with_rewrites(recipe, rewrite or [], redesign or [])
        if float_share is not None:
            require_share(recipe, float_share)
        selection = build_selection(slices, where, first, last, seed)
        memory = parse_memory(max_memory)
        target = None if output is None else output_file(output)
        scans = [open_volume(path, series=series, component=component, frame=frame) for path in volumes]
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_original(model, weights, device, option, progress, cancelled)
            tracker, start, calibration, before = Progress(progress, cancelled), 0.0, scans, {}
            if float_share is not None:
                start, limits = 0.3, {"ignore": ignore or (), "max_memory_mb": memory}
                calibration, recipe, before = _float_inputs(
                    loaded, scans, selection, recipe, float_share, limits, tracker.span(0.0, start)
                )
            target = target or output_file(f"{file_word(loaded.name)}-{recipe.label.lower()}.mq.safetensors")
            made = run_quantize(
                loaded,
                calibration,
                recipe=recipe,
                selection=selection,
                ignore=ignore or (),
                max_memory_mb=memory,
                **tracker.span(start, 1.0).callbacks(),
            )
            seconds = {**made.report.seconds, **before}
            seconds["total"] += sum(before.values())
            made = replace(made, report=replace(made.report, seconds=seconds))
        told = output_told(target)
        size = made.save(target)
        _show(run, made, target, size, told)


def _float_inputs(
    model: Model,
    scans: Sequence[Volume],
    selection: CalibrationSelection,
    recipe: Recipe,
    share: float,
    limits: dict[str, Any],
    tracker: Progress,
) -> tuple[PreparedInputs, Recipe, dict[str, float]]:
    """The calibration inputs, cut once for all that follows, the recipe with inputs in floating point, and seconds."""
    from medquant.calibration_inputs import PreparedInputs
    from medquant.mixed.float_inputs import with_float_inputs

    began = time.perf_counter()
    inputs = PreparedInputs.of(model, scans, selection, tracker)
    prepared = time.perf_counter()
    chosen = with_float_inputs(
        model, inputs, recipe=recipe, share=share, **limits, **tracker.span(0.05, 1.0).callbacks()
    )
    seconds = {"calibration inputs": prepared - began, "choice of float inputs": time.perf_counter() - prepared}
    return inputs, chosen, seconds


def _show(run: Session, made: QuantizedModel, target: Path, size: int, told: str) -> None:
    from medquant.evaluation import wording
    from medquant.rewrites.settings import plain_name

    report = made.report
    run.say(f"{strong(made.name)}: {escape(made.recipe.describe())}")
    if report.redesign is not None:
        run.say(escape(report.redesign.describe()))
    before = wording.size(4 * report.parameters)
    run.say(
        f"{before} in FP32, {wording.size(size)} now; {wording.stored_bits(report)}; "
        f"{len(report.layers)} layers quantized, {len(report.kept)} kept in floating point"
    )
    for reason in dict.fromkeys(report.kept.values()):
        names = [name for name, why in report.kept.items() if why == reason]
        few = len(names) <= MOST_KEPT
        for one in names if few else [f"{len(names)} layers, {names[0]} to {names[-1]}"]:
            run.say(f"  kept: {escape(one)} ({escape(reason)})")
    worst = sorted(report.layers, key=lambda layer: -layer.relative_error)[:3]
    if worst:
        listing = ", ".join(f"{plain_name(layer.name)} by {layer.relative_error:.1%}" for layer in worst)
        run.say(
            f"Layers whose output changed most, on the calibration slices: {escape(listing)}. What this costs in masks "
            "is seen by segmenting with both models, and medquant compare."
        )
    stages = ", ".join(f"{name} {wording.seconds(value)}" for name, value in report.seconds.items())
    run.say(f"Time: {stages}. Peak memory {wording.memory(report.peak_memory_mb)}.")
    run.say(f"Quantized model: {told}")
    run.finish(
        {
            "model": made.name,
            "output": str(target),
            "recipe": made.recipe.to_dict(),
            **report.to_dict(),
            "bytes_on_disk": size,
        }
    )
