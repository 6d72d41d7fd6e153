"""`medquant export`: a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import Session, output_folder, session, strong

if TYPE_CHECKING:
    from medquant.deploy.export.exporting import Exported

EXAMPLES = o.examples(
    "medquant export medsam-w8.mq.safetensors --format openvino",
    "medquant export organs-w4.mq.safetensors --format onnx --output organs-onnx",
    "medquant export embedded --format torch --overwrite",
)


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A quantized model's file, or a name from medquant models.")
    ],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="onnx (most programs), openvino (Intel and other processors), tensorrt (NVIDIA), torch (PyTorch), or "
            "artifact (medquant's own, the smallest).",
        ),
    ] = "onnx",
    output: Annotated[str | None, o.output("The new folder. (default: MODEL-FORMAT)", metavar="FOLDER")] = None,
    storage: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="int8: for integer kernels, the fastest. packed: in the model's 2 to 8 bits, the smallest file. auto: "
            "int8 where the model has integer activations, else packed.",
        ),
    ] = "auto",
    opset: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The version of ONNX, where a program takes only older ones. Packed weights of 4 bits need 21, of 2 "
            "bits 25; an older one stores them in more bits.",
        ),
    ] = None,
    any_processor: Annotated[
        bool | None,
        typer.Option(
            "--any-processor/--no-any-processor",
            help="Weights of 7 bits, whose sums cannot overflow on x86 processors without VNNI. (default: where this "
            "processor is one)",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export there.")] = False,
    weights: o.Weights = None,
    option: o.ModelOptions = None,
    json_target: o.Json = None,
) -> None:
    """Write a model as files that other programs run without medquant.

    The folder holds the network (MedSAM: encoder and decoder, for any number of boxes), a card (README.md and
    model.json: how to prepare a scan, labels, quality, licence), an example that is no patient's, and a short script
    that runs it. Before it is put there the export is run and compared with the original; one that differs is refused.
    """
    from medquant.commands.inputs import file_word, open_model
    from medquant.deploy.export.exporting import export as run_export
    from medquant.deploy.export.formats import format_named

    with session(json_target) as run:
        format_named(format_name).version()
        target = None if output is None else output_folder(output)
        with run.track("Loading the model") as (progress, cancelled):
            loaded = open_model(model, weights, "cpu", option, progress, cancelled)
            made = run_export(
                loaded,
                target or Path(f"{file_word(loaded.name)}-{format_name}"),
                format_name,
                storage=storage,
                opset=opset,
                any_processor=any_processor,
                overwrite=overwrite,
                progress=progress,
                cancelled=cancelled,
            )
        _show(run, loaded.name, made)


def _show(run: Session, name: str, made: Exported) -> None:
    from medquant.evaluation import wording

    for one in made.differences:
        same = "" if one.same_labels is None else f", the same label at {one.same_labels:.2%} of the places"
        run.say(
            f"{one.part.replace('_', ' ')}: differs from the original by {one.relative:.1e} of its output "
            f"(at most {one.bound:g}){same}"
        )
    for note in made.notes:
        run.say(escape(note))
    run.say(f"{escape(name)} as {made.format}, {wording.size(made.bytes_on_disk)}: {strong(made.folder)}")
    run.say(f"Try it: python {strong(made.folder / made.script)}")
    run.finish({"model": name, **made.to_dict()})
