"""Options that several commands share, spelled and explained once."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

SCAN = "Scan"
MODEL = "Model"
BOXES = "Boxes (models that need one)"
WIDTH = 68
"""Of a line of an example: 80 columns without margins and the backslash."""

Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Write the numbers as JSON to a file, or with - to standard output.",
    ),
]
Series = Annotated[
    str | None,
    typer.Option(metavar="N|UID", help="Which series of a DICOM folder (see medquant series).", rich_help_panel=SCAN),
]
Component = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Which value of colour or vector voxels, from 0.",
        rich_help_panel=SCAN,
    ),
]
Frame = Annotated[
    int | None, typer.Option(metavar="N", help="Which time point of a 4-D scan, from 0.", rich_help_panel=SCAN)
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="A name from medquant models, a weight file, an nnU-Net results folder, or a quantized model.",
        rich_help_panel=MODEL,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Trained weights, for models that need a file or folder.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.", rich_help_panel=MODEL)]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What computes: auto (measured here), pytorch, openvino, onnxruntime, tensorrt or pytorch-compiled.",
        rich_help_panel=MODEL,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto (integers where the model has them, else FP32), fp32, bf16, fp16 or int8.",
        rich_help_panel=MODEL,
    ),
]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the model's own, e.g. window_level=40 (MedSAM), folds=0 (nnU-Net). Repeatable.",
        rich_help_panel=MODEL,
    ),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="I,J,K,I,J,K",
        help="Two opposite corners in voxels, both inclusive. Name it by liver=I,J,K,I,J,K. Repeatable.",
        rich_help_panel=BOXES,
    ),
]
WorldBoxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box-world",
        metavar="X,Y,Z,X,Y,Z",
        help="The corners in mm, LPS as in DICOM (3D Slicer shows RAS: turn the signs of x and y). Repeatable.",
        rich_help_panel=BOXES,
    ),
]
Plane = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Slices to walk through: axial, coronal or sagittal.", rich_help_panel=BOXES),
]
Names = Annotated[
    str | None,
    typer.Option(
        metavar="1=spleen,5=liver", help="Names of label values, where the file has none.", rich_help_panel=SCAN
    ),
]
PublishedGranularity = Annotated[
    str | None,
    typer.Option(
        "--granularity",
        metavar="NAME",
        help="Round as MedQuanBench does (symmetric, the range of each input as it comes, all layers alike): "
        "per-tensor, per-channel/token or adaptive. Without it: the product's settings.",
    ),
]


def max_memory(panel: str | None = None) -> Any:
    """The option --max-memory, which `parse_memory` reads; `panel` is where the help page has it."""
    return typer.Option(metavar="2GB", help="Memory above the model's own.", rich_help_panel=panel)


def output(about: str, metavar: str = "FILE") -> Any:
    """The option --output, -o: what it names differs from command to command. Files are replaced, folders are not."""
    replaced = " A file of that name is replaced." if metavar == "FILE" else ""
    return typer.Option("--output", "-o", metavar=metavar, help=about + replaced)


def typed(context: typer.Context) -> dict[str, str]:
    """Parameter -> option, of those that stand on the command line: not of defaults, nor of the environment's."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            found[str(parameter.name)] = parameter.opts[0]
    return found


def examples(*commands: str) -> str:
    """Commands to copy, for the end of a help page; a long one in lines that a terminal of 80 columns holds."""
    fence = "```"  # Typer takes indents away, by which Markdown would know commands too
    return f"Examples\n\n{fence}text\n" + "\n\n".join(_in_lines(command) for command in commands) + f"\n{fence}"


def _in_lines(command: str) -> str:
    lines = [""]
    for words in re.split(r" (?=-)", command):  # an option stays with its value
        longer = f"{lines[-1]} {words}".strip()
        lines = [*lines[:-1], longer] if len(longer) <= WIDTH or not lines[-1] else [*lines, words]
    return " \\\n    ".join(lines)
