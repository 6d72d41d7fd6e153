"""`medquant rewrites`: what smoothing, low rank, rotation and equalization are worth on a model and a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.recipes import build_selection
from medquant.commands.session import Session, session

if TYPE_CHECKING:
    from medquant.evaluation.rewrite_study import RewriteStudy

EXAMPLES = o.examples(
    "medquant rewrites ct.nii.gz",
    "medquant rewrites ct.nii.gz --granularity per-channel/token",
    "medquant rewrites ct.nii.gz --model nnunet --weights results/ --bits 4 --activations 8 --layers 1",
)


def rewrites(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="A scan: file or DICOM folder.")],
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    bits: Annotated[int, typer.Option("--bits", "-b", metavar="N", help="Bits of a weight: 2 to 8.")] = 4,
    activations: Annotated[
        int, typer.Option("--activations", "-a", metavar="N", help="Bits of a layer's input; 0: in floating point.")
    ] = 4,
    granularity: o.PublishedGranularity = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="rtn (default, quick), permutation-comq, comq or gptq.")
    ] = "rtn",
    layers: Annotated[int, typer.Option(min=1, metavar="N", help="Layers looked at by themselves.")] = 3,
    slices: Annotated[
        int, typer.Option(min=2, metavar="N", help="Slices (or 3-D patches): half calibrate, half measure.")
    ] = 2,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    device: o.Device = "auto",
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Try the rewrites that keep a network's function, and see whether they help it through rounding.

    The layers that rounding harms most are rounded alone, with and without each rewrite; then the whole network is,
    with the worst layer rewritten, and with all layers: some minutes. No labels are needed: everything is compared with
    FP32. To use one, give its name to medquant quantize --rewrite.
    """
    from medquant.commands.inputs import open_original, open_volume
    from medquant.evaluation.rewrite_study import recipe_of_study, study_rewrites

    with session(json_target) as run:
        recipe = recipe_of_study(bits, activations or None, method, granularity)
        scan = open_volume(volume, series=series, component=component, frame=frame)
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_original(model, weights, device, option, progress, cancelled)
            found = study_rewrites(
                loaded,
                scan,
                recipe=recipe,
                most=layers,
                selection=build_selection(slices, None, None, None),
                progress=progress,
                cancelled=cancelled,
            )
        show_rewrites(run, found)
        run.finish({"model": loaded.name, **found.to_dict()})


def show_rewrites(run: Session, found: RewriteStudy) -> None:
    """The tables, and what they say in a sentence."""
    from medquant.commands.tables import rewritten_layer_table, rewritten_table
    from medquant.evaluation import wording
    from medquant.evaluation.rewrite_study import NONE

    for layer in found.layers:
        run.say(f"\n{found.rounding}, only {escape(layer)} rounded:")
        run.console.print(rewritten_layer_table(found, layer))
    run.say(f"\n{found.rounding}, the whole network rounded, {escape(found.layers[0])} or all layers rewritten:")
    run.console.print(rewritten_table(found))
    for place, layer in (("all layers", ""), (found.layers[0], found.layers[0])):
        rows = found.whole(layer)
        best = max(rows.values(), key=lambda one: (one.change.dsc, -one.change.error))
        run.say(
            f"Rewriting {escape(place)}: best {best.variant}, Dice {wording.score(best.change.dsc)}; without "
            f"{wording.score(rows[NONE].change.dsc)}. Differences below .01 are ties."
        )
