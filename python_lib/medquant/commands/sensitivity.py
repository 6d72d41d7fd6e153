"""`medquant sensitivity`: which layers break first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.recipes import build_selection
from medquant.commands.session import Session, output_told, picture_file, session
from medquant.errors import UserError

if TYPE_CHECKING:
    from medquant.sensitivity.effects import SensitivityMap

EXAMPLES = o.examples(
    "medquant sensitivity ct.nii.gz",
    "medquant sensitivity ct.nii.gz --reference labels.nii.gz --names 5=liver",
    "medquant sensitivity ct.nii.gz --what both --bits 4 --view incremental --granularity per-channel/token",
    "medquant sensitivity ct.nii.gz --model nnunet --weights results/ --view incremental --figure layers.png",
)

EFFECTS = {
    "one-at-a-time": "error of the network's output in per cent; Dice: of its masks against FP32's",
    "incremental": "error of the network's output that giving the layer back takes away, in percentage points; "
    "Dice: of the masks then against FP32's",
    "proxy": "error of the layer's own output in per cent",
}
"""What the numbers of each view are."""


def sensitivity(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="A scan: file or DICOM folder.")],
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    bits: Annotated[
        list[int] | None, typer.Option("--bits", "-b", metavar="N", help="Repeatable; 2, 4 and 8 if not given.")
    ] = None,
    rounds: Annotated[
        str, typer.Option("--what", metavar="NAME", help="What is rounded: weights, activations or both.")
    ] = "weights",
    views: Annotated[
        list[str] | None,
        typer.Option(
            "--view",
            metavar="NAME",
            help="one-at-a-time (default: only this layer is rounded), incremental (all but this layer) or proxy (the "
            "error of the layer's own output, the quickest). Repeatable.",
        ),
    ] = None,
    slices: Annotated[int, typer.Option(min=1, metavar="N", help="Slices (or 3-D patches) of the scan.")] = 1,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="rtn (default, quick), permutation-comq, comq or gptq.")
    ] = "rtn",
    granularity: o.PublishedGranularity = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Labels of the scan: the Dice against them is told as well, and slices are those that show them.",
        ),
    ] = None,
    names: o.Names = None,
    max_memory: Annotated[str | None, o.max_memory()] = None,
    figure: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Write the map as a picture: .png, .svg or .pdf.")
    ] = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    device: o.Device = "auto",
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Measure what rounding each layer does to the masks: which layers to keep precise, and which hardly matter.

    No labels are needed: everything is compared with the FP32 model. Dice is that of the network's own masks on the
    slices looked at, with that layer alone rounded (or with all but it). With --reference it is also told against
    labels, with FP32's own: boxes are then those around them, and calibration does not see them. What learns from the
    slices that calibrate (solvers, static ranges of inputs) is measured on one more.
    """
    from medquant.commands.inputs import open_original, open_volume, parse_memory, read_reference
    from medquant.evaluation.sensitivity_inputs import sensitivity_inputs
    from medquant.progress import Progress
    from medquant.published_recipes import published
    from medquant.recipe import Recipe
    from medquant.sensitivity.effects import views_of
    from medquant.sensitivity.layers import sensitivity as run_sensitivity
    from medquant.sensitivity.trials import roundings_of

    with session(json_target) as run:
        if names and reference is None:
            raise UserError("--names is of labels. Give them with --reference, or leave --names out.")
        roundings = roundings_of(bits or [2, 4, 8], rounds)
        chosen = views_of(views or ["one-at-a-time"])
        # Whatever bits it names, layers are rounded to those of `roundings`.
        recipe = Recipe(method=method) if granularity is None else published(8, granularity, method)
        for rounding in roundings:
            rounding.recipe(recipe)  # raises for bits that there are not, before a scan is read
        memory = parse_memory(max_memory)
        target = None if figure is None else picture_file(figure)
        scan = open_volume(volume, series=series, component=component, frame=frame)
        known = None if reference is None else read_reference(scan, reference, names)
        selection = build_selection(slices, None, None, None)
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_original(model, weights, device, option, progress, cancelled)
            preparing = Progress(progress, cancelled).span(0.0, 0.03)
            inputs = sensitivity_inputs(loaded, scan, selection, roundings, recipe, reference=known, tracker=preparing)
            found = run_sensitivity(
                loaded,
                inputs.calibrating,
                roundings=roundings,
                views=chosen,
                recipe=recipe,
                measured_on=inputs.measured_on,
                references=inputs.references,
                max_memory_mb=memory,
                progress=progress,
                cancelled=cancelled,
            )
        _show(run, found)
        run.finish({"model": loaded.name, "measured_apart": inputs.apart, **found.to_dict()})
        if target is not None:
            _draw(run, found, target)


def _show(run: Session, found: SensitivityMap) -> None:
    from medquant.commands.tables import layers_tables, types_table
    from medquant.evaluation import wording

    if found.fp32_vs_reference is not None:
        run.say(f"FP32 against the reference: Dice {wording.score(found.fp32_vs_reference)}.")
    views = list(dict.fromkeys(cell.view for cell in found.cells))
    for view in views:
        run.say(f"\n{view}:")
        for table in layers_tables(found, view, run.console):
            run.console.print(table)
        run.say(f"effect: {EFFECTS[view]}")
    if found.types:
        run.say("\nAll layers of a type given back, the others rounded:")
        run.console.print(types_table(found))
    for row in found.rank_agreement():
        if row["spearman"] is not None:
            one, other = row["views"]
            run.say(f"{row['rounding']}: {one} and {other} rank the layers alike by {row['spearman']:.2f} (Spearman).")
    seen = f" ({found.ranking_view})" if len(views) > 1 else ""
    run.say(f"The output changes most at the fewest bits{seen}: {escape(', '.join(found.worst()))}.")
    if harmful := found.most_harmful():
        run.say(f"The Dice against FP32 falls most: {escape(', '.join(harmful))}.")


def _draw(run: Session, found: SensitivityMap, target: Path) -> None:
    from medquant.evaluation.layer_figures import sensitivity_figure

    told = output_told(target)
    sensitivity_figure(target, found)
    run.say(f"Written: {told}")
