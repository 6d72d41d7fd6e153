"""`medquant bench generation`: what quantization does to images that a diffusion network makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medquant.commands import options as o
from medquant.commands.session import Session, output_told, picture_file, session
from medquant.commands.tables import plain_table
from medquant.evaluation import wording

if TYPE_CHECKING:
    from medquant.bench.generation.measure import Measured

EPILOG = o.examples("medquant bench generation --figure samples.png --json generation.json")


def generation(
    images: Annotated[
        int, typer.Option(metavar="N", help="Images of each row, and slices of phantoms to compare them with.")
    ] = 128,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of the sampler from noise to image.")] = 20,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="W8A8 or W4A4, or W8, W4 or W2 of weights alone. Repeatable; all if not given, FP32 always.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Weights that medquant.embedded.diffusion_demo.training wrote; if not given those that come along.",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw images of every row, a column for each noise: .png, .svg or .pdf."),
    ] = None,
    json_target: o.Json = None,
) -> None:
    """An experiment: quantize a diffusion network, and compare the images it makes by FID and with FP32's own.

    MedQuanBench's additional task (Table 14), not on MAISI, whose weights it does not load, but on a small network of
    its kind that was trained on slices of phantoms. Takes some ten minutes on two cores.
    """
    from medquant.bench.generation import measure
    from medquant.bench.generation.figure import write_figure
    from medquant.bench.generation.settings import settings
    from medquant.models.catalogue import EMBEDDED_DIFFUSION

    with session(json_target) as told:
        target = None if figure is None else picture_file(figure)
        compared = settings(precision) if precision else settings()
        with told.track("Generation") as (progress, cancelled):
            measured = measure.run(
                weights=EMBEDDED_DIFFUSION if weights is None else Path(weights).expanduser(),
                images=images,
                steps=steps,
                compared=compared,
                progress=progress,
                cancelled=cancelled,
            )
        print_generation(told, measured)
        if target is not None:
            words = output_told(target)
            write_figure(measured, target)
            told.say(f"Images: {words}")
        told.finish(measured.to_dict())


def print_generation(run: Session, measured: Measured) -> None:
    """A line for each setting, and what has to be known to read the figures."""
    table = plain_table("", "", "FID", "PSNR\nFP32", "HU off\nFP32", "on disk", "bits", "per\nimage", text=2)
    for row in measured.rows:
        table.add_row(
            row.precision,
            row.method,
            f"{row.fid:.3f}",
            "" if row.psnr is None else f"{row.psnr:.1f} dB",
            "" if row.mae_hu is None else f"{row.mae_hu:.1f}",
            wording.size(row.bytes_on_disk),
            f"{row.effective_bits:.2f}",
            wording.seconds(row.seconds_per_image),
        )
    run.console.print(table)
    run.say(
        f"FID of {measured.images} images in {measured.steps} steps against slices of as many phantoms that the "
        f"network was not trained on. Features: {measured.features}; FIDs by others cannot be compared."
    )
    run.say(
        f"FP32's FID from other noise is {measured.fid_again:.3f}: a row that is no further from FP32's than this is a "
        f"tie. That of as many other slices of phantoms is {measured.fid_of_slices:.3f}, not 0: few images raise it."
    )
    run.say("PSNR and HU off: mean against FP32's images from the same noise, air included, HU cut to -160 to 240.")
    run.say(f"Size of FP32: 4 bytes for each weight. Times are PyTorch's on {measured.machine}.")
    if any(row.simulated for row in measured.rows):
        run.say("Rounded rows are simulated: computed on rounded numbers, their times are not integer kernels'.")
    run.say("A small network trained on phantoms, not MAISI: an experiment.")
