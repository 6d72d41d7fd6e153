"""`medquant activations`: what flows between the layers, and where the outliers are."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.recipes import build_selection
from medquant.commands.session import output_told, picture_file, session

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

    Outliers at few places within many channels give a large kurtosis within channels and a small one across them: one
    scale for each channel then helps little, moving the range between channels (smoothing) even less. Rows that only
    fill up windows are left out; layers with a star are run by mask prompts only, and are in no picture.
    """
    from medquant.commands.inputs import open_original, open_volume
    from medquant.commands.tables import activations_table
    from medquant.evaluation.activations import study_activations

    with session(json_target) as run:
        target = None if figure is None else picture_file(figure)
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
        more = [one.quantiles_within[1] > one.quantiles_across[1] for one in study.compared]
        run.say(
            "Kurtosis in the table: mean over the channels, and over the places; empty where there are too few. "
            "Smoothing ratio: below 1, the channels' maxima become evener."
        )
        run.say(f"Median kurtosis within channels is above that across them in {sum(more)} of {len(more)} layers.")
        padded = [one.padding for one in study.layers if one.padding]
        if padded:
            run.say(f"Padding of windows is left out: in {len(padded)} layers, up to {max(padded):.0%} of the rows.")
        unplaced = sum(not one.placed for one in study.drawn)
        if unplaced:
            run.say(f"No map of outliers is drawn of {unplaced} layers: their rows have no place in the image.")
        if study.smoothed is not None:
            one = study.smoothed
            across = (one.kurtosis_across, one.smoothed_kurtosis_across)
            known = "not known, they are few" if math.isnan(across[0]) else "{:.1f} before, {:.1f} after"
            run.say(
                f"Smoothing {escape(one.layer)}: kurtosis across channels {known.format(*across)}; within channels "
                f"{one.kurtosis_within:.1f}, which no division of whole channels can change."
            )
        run.finish({"model": loaded.name, **study.to_dict()})
        if target is not None:
            from medquant.evaluation.activation_figures import activation_figure

            told = output_told(target)
            activation_figure(target, study)
            run.say(f"Written: {told}")
