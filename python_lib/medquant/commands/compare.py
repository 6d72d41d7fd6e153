"""`medquant compare`: masks against FP32 masks and against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import output_file, output_told, picture_file, session
from medquant.errors import UserError

EXAMPLES = o.examples(
    "medquant compare fp32.seg.nrrd w4.seg.nrrd --labels FP32,W4 --volume ct.nii.gz --report report.html",
    "medquant compare fp32.nii.gz w4.nii.gz --reference manual.nii.gz --names 1=spleen,5=liver",
)


def compare(
    masks: Annotated[
        list[str], typer.Argument(metavar="MASKS...", help="Label files of one scan, the FP32 one first.")
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="LABELS", help="A reference segmentation of the same scan.")
    ] = None,
    volume: Annotated[
        str | None, typer.Option(metavar="SCAN", help="The scan; needed for --report and --figure.")
    ] = None,
    called: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FP32,W4,W2",
            help="What to call the masks, in their order; file names are not shown, they often name a patient.",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, metavar="MM", help="Tolerance of NSD in mm.")] = 2.0,
    names: o.Names = None,
    structures: Annotated[
        str | None, typer.Option(metavar="liver,spleen", help="Which structures; all if not given.")
    ] = None,
    report: Annotated[str | None, typer.Option(metavar="FILE.html", help="Write a self-contained report.")] = None,
    figure: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the three slices that differ most: .png, .svg or .pdf.")
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE.csv", help="Write the table as CSV.")] = None,
    series: o.Series = None,
    component: o.Component = None,
    frame: o.Frame = None,
    json_target: o.Json = None,
) -> None:
    """Compare masks of one scan, structure by structure: Dice, NSD, HD95, volume and its change.

    The first file is taken as FP32, and the others are measured against it; with --reference all are measured
    against that as well. Two empty masks agree (Dice 1); an empty one against another has Dice 0.
    """
    from medquant.commands.inputs import open_volume, parse_names, select_structures
    from medquant.commands.tables import models_table, structures_table
    from medquant.evaluation.compare import compare as run_compare
    from medquant.evaluation.comparison import ModelFacts
    from medquant.evaluation.structures import matched_by_number
    from medquant.imaging.reading import read_labels

    with session(json_target) as run:
        written = {name: output_file(path, name) for name, path in _given(report, csv)}
        if figure is not None:
            written["--figure"] = picture_file(figure)
        if volume is None and (report or figure):
            raise UserError(f"A {'report' if report else 'figure'} shows the scan. Give it with --volume.")
        told = [output_told(path) for path in written.values()]
        labels = parse_names(names)
        scan = open_volume(volume or masks[0], series=series, component=component, frame=frame)
        found = [read_labels(path, scan, names=labels) for path in masks]
        facts = [ModelFacts(name=label) for label in model_labels(called, len(masks))]
        truth = None if reference is None else read_labels(reference, scan, names=labels)
        found = select_structures([*found, *filter(None, [truth])], structures)
        truth = None if truth is None else found.pop()
        with run.track("Comparing") as (progress, cancelled):
            comparison = run_compare(
                found, reference=truth, tolerance_mm=tolerance, facts=facts, progress=progress, cancelled=cancelled
            )
        run.console.print(structures_table(comparison))
        run.say("\nMeans:")
        run.console.print(models_table(comparison.summary, has_reference=comparison.has_reference))
        if comparison.not_in_reference:
            run.say(f"Not in the reference: {escape(', '.join(comparison.not_in_reference))}.")
        by_number = {} if truth is None else matched_by_number(found, truth)
        if by_number:
            pairs = ", ".join(f"{name} with its label {label}" for name, label in by_number.items())
            run.say(
                f"The reference has no names, so labels of one number were compared: {escape(pairs)}. Where that is "
                "another structure, name it, e.g. --names 5=liver."
            )
        if "--csv" in written:
            comparison.write_csv(written["--csv"])
        if "--report" in written:
            from medquant.evaluation.report import write_report

            write_report(written["--report"], comparison, found)
        if "--figure" in written:
            from medquant.evaluation.figures import contact_sheet

            contact_sheet(written["--figure"], found, comparison=comparison, slices=3)
        for path in told:
            run.say(f"Written: {path}")
        run.finish(comparison.to_dict())


def model_labels(text: str | None, count: int) -> list[str]:
    """Names for the masks, never those of files. Raises `UserError` where their number does not fit."""
    if text is None:
        return ["FP32", *(f"mask {number}" for number in range(2, count + 1))]
    labels = [word.strip() for word in text.split(",")]
    if len(labels) != count or not all(labels):
        raise UserError(f"{text!r} does not name {count} masks. Give one label for each, with commas between.")
    return labels


def _given(report: str | None, csv: str | None) -> list[tuple[str, str | Path]]:
    options = {"--report": report, "--csv": csv}
    return [(name, path) for name, path in options.items() if path is not None]
