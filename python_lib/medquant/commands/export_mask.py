"""`medquant export-mask`: masks in another format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medquant.commands import options as o
from medquant.commands.session import output_file, output_told, session
from medquant.errors import UserError

EXAMPLES = o.examples(
    "medquant export-mask liver.seg.nrrd --to nifti",
    "medquant export-mask liver.seg.nrrd --to dicom-seg --volume /data/series --output liver.dcm",
)
FORMATS = {"seg-nrrd": ".seg.nrrd", "nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "dicom-seg": ".dcm"}


def export_mask(
    mask: Annotated[str, typer.Argument(help="A label file: .seg.nrrd, NIfTI, NRRD, MetaImage or DICOM SEG.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=f"The format: {', '.join(FORMATS)}.")],
    volume: Annotated[
        str | None,
        typer.Option(metavar="SCAN", help="The scan it was drawn on; for dicom-seg the folder of its DICOM series."),
    ] = None,
    output: Annotated[str | None, o.output("The file. (default: the mask's name with the new suffix)")] = None,
    names: o.Names = None,
    series: o.Series = None,
    frame: o.Frame = None,
    json_target: o.Json = None,
) -> None:
    """Write masks for another program: 3D Slicer (seg-nrrd), a PACS (dicom-seg), or NIfTI, NRRD and MetaImage."""
    from medquant.commands.inputs import open_volume, parse_names, series_choice
    from medquant.imaging.itk_file import known_suffix
    from medquant.imaging.reading import read_labels
    from medquant.imaging.writing import save_segmentation

    with session(json_target) as run:
        if to not in FORMATS:
            raise UserError(f"There is no format {to!r}. Choose {', '.join(FORMATS)}.")
        if to == "dicom-seg" and volume is None:
            raise UserError("A DICOM SEG belongs to the series it was drawn on. Give its folder with --volume.")
        stem = Path(mask).name.removesuffix(".seg.nrrd")
        stem = stem.removesuffix(known_suffix(Path(stem)))
        target = output_file(output or Path(mask).with_name(stem + FORMATS[to]))
        if not target.name.lower().endswith(FORMATS[to]):
            raise UserError(f"{target.name} does not end with {FORMATS[to]}, the suffix of {to}. Correct --output.")
        if target.resolve() == Path(mask).expanduser().resolve():
            raise UserError(f"{target} is the mask itself. Give --output another name.")
        scan = open_volume(volume or mask, series=series, frame=frame)
        labels = read_labels(mask, scan, names=parse_names(names))
        unnamed = replace(labels, model_name="")  # here the mask's file name, which may name a patient
        told = output_told(target)
        save_segmentation(unnamed, target, source=volume, series=series_choice(series), frame=frame)
        listing = ", ".join(structure.name for structure in labels.structures) or "no structure"
        run.say(f"{told}: {escape(listing)}")
        run.finish({"output": str(target), "format": to, "structures": [s.name for s in labels.structures]})
