"""`medquant activations`: what flows between the layers, and where the outliers are."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.recipes import build_selection
from medquant.commands.session import output_file, output_told, session

EXAMPLES = o.examples("medquant activations ct.nii.gz --figure activations.png")


def activations(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="A scan: file or DICOM folder.")],
    model: o.ModelName = "embedded",
    weights: o.Weights = None,
    slices: Annotated[int, typer.Option(min=1, metavar="N", help="Slices (or 3-D patches) of the scan.")] = 1,
    figure: Annotated[str | None, typer.Option(metavar="FILE.png", help="Write a picture: .png, .svg or .pdf.")] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Shown before and after smoothing. (default: that with the highest peaks)"),
    ] = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    device: o.Device = "auto",
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Look at the inputs of all layers: range, outliers, kurtosis within and across channels, what smoothing would do.

    Outliers at few places within many channels, the pattern of medical networks, give a large kurtosis within channels
    and a small one across them: one scale for each channel then helps little, moving the range between channels
    (smoothing) even less.
    """
    from medquant.commands.inputs import open_original, open_volume
    from medquant.commands.tables import activations_table
    from medquant.evaluation.activations import study_activations

    with session(json_target) as run:
        target = None if figure is None else output_file(figure, "--figure")
        scan = open_volume(volume, series=series, component=component, frame=frame)
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_original(model, weights, device, option, progress, cancelled)
            selection = build_selection(slices, None, None, None)
            study = study_activations(
                loaded, scan, selection=selection, layer=layer, progress=progress, cancelled=cancelled
            )
        run.console.print(activations_table(study))
        total = max(1, sum(study.flops.values()))
        parts = sorted(study.flops.items(), key=lambda one: -one[1])
        shares = ", ".join(f"{kind} {count / total:.0%}" for kind, count in parts)
        run.say(f"Arithmetic of one pass: {total / 1e9:.3g} GFLOPs; {escape(shares)}.")
        if study.smoothed is not None:
            one = study.smoothed
            run.say(
                f"Smoothing {escape(one.layer)}: kurtosis across channels {one.kurtosis_across:.1f} before, "
                f"{one.smoothed_kurtosis_across:.1f} after; within channels {one.kurtosis_within:.1f} before and after."
            )
        if target is not None:
            from medquant.evaluation.activation_figures import activation_figure

            told = output_told(target)
            activation_figure(target, study)
            run.say(f"Written: {told}")
        run.finish({"model": loaded.name, **study.to_dict()})
