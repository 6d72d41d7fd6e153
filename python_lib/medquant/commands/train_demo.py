"""`medquant train-demo`: train the embedded promptable model again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import output_folder, session, strong

EXAMPLES = o.examples(
    "medquant train-demo --output training --hours 2.5",
)


def train_demo(
    output: Annotated[str, o.output("Folder for checkpoint, scenes, log and weights.", "FOLDER")],
    hours: Annotated[
        float | None, typer.Option(min=0.0, metavar="HOURS", help="How long, over all resumptions.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Or how many steps: repeatable to the bit.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of images and weights.")] = 0,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes of one thread each.")] = 2,
    resume: Annotated[bool, typer.Option("--resume/--anew", help="Go on from the checkpoint, or start anew.")] = True,
    json_target: o.Json = None,
) -> None:
    """Train the small promptable model of the demonstration, on procedurally generated images only.

    Stop with Ctrl-C and run the same command again to go on. Two to three hours on two cores give the weights that
    come with medquant.
    """
    from medquant.embedded.promptable.training import train

    with session(json_target) as run, run.track("Preparing") as (progress, cancelled):
        weights = train(
            output_folder(output),
            hours=hours,
            steps=steps,
            seed=seed,
            resume=resume,
            workers=workers,
            progress=progress,
            cancelled=cancelled,
        )
        run.say(f"Weights: {strong(weights)}. Use them with --model {escape(str(weights))}")
        run.finish({"weights": str(weights)})
