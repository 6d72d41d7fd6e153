"""The card of an export: what it is, how to use it, how good it is, where it comes from. For people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import mean
from typing import Any

from medquant.deploy.export.formats import Format, PartFile
from medquant.deploy.export.preparation import preprocessing, preprocessing_in_words
from medquant.deploy.export.verify import Difference
from medquant.evaluation import wording
from medquant.models.base import Model, Part
from medquant.quantized_model import QuantizationReport, QuantizedModel

NOT_CLINICAL = "For research. Not for clinical use."
_WORST = 5


def card_data(
    model: Model | QuantizedModel,
    form: Format,
    parts: Mapping[str, Part],
    files: Mapping[str, PartFile],
    differences: tuple[Difference, ...],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """The card as plain data, `model.json`. `sizes`: bytes of each file of the model."""
    adapter = model.model if isinstance(model, QuantizedModel) else model
    quantized = model if isinstance(model, QuantizedModel) else None
    return {
        "name": model.name,
        "use": NOT_CLINICAL,
        "different_model": quantized.provenance.redesign if quantized else "",
        "format": form.name,
        "runtime": form.version(),
        "family": adapter.family,
        "modality": adapter.modality,
        "parts": {name: _part(part, files[name]) for name, part in parts.items()},
        "labels": {structure.name: structure.label for structure in adapter.structures},
        "preprocessing": {"steps": preprocessing_in_words(adapter), **preprocessing(adapter)},
        "recipe": quantized and quantized.recipe.to_dict(),
        "effective_bits": quantized and quantized.report.effective_bits,
        "bytes_on_disk": sum(sizes.values()),
        "files": dict(sizes),
        "quality": quantized and _quality(quantized.report),
        "verified": [asdict(one) for one in differences],
        "notes": sorted({note for file in files.values() for note in file.notes}),
        "licence_of_the_weights": adapter.licence or "not stated",
        "provenance": asdict(quantized.provenance) if quantized else {"weights_sha256": adapter.weights_hash},
    }


def card_text(data: Mapping[str, Any], form: Format, script: str) -> str:
    """The card for people, `README.md`, from the data of `card_data`."""
    lines = [f"# {data['name']}", "", f"**{NOT_CLINICAL}** A segmentation network as {form.title}.", ""]
    if data["different_model"]:
        lines += [f"**{data['different_model']}**", ""]
    run = [f"pip install numpy {form.packages}"] * bool(form.packages) + [f"python {script}"]
    lines += ["## Run it", "", "```", *run, "```", ""]
    lines += [
        f"`{script}` runs the network on `example.npz`, a made-up scan that is no patient's, and compares with what "
        "the original gives. Put your own prepared arrays in its place."
        + ("" if form.packages else " It needs medquant: the environment that MedQuantSlicer's `run.py` makes."),
        "",
        "## Files",
        "",
        "| part | file | weights | inputs | outputs |",
        "|---|---|---|---|---|",
    ]
    for name, part in data["parts"].items():
        inputs = ", ".join(f"`{key}` {_shape(shape)}" for key, shape in part["inputs"].items())
        lines.append(f"| {name} | `{part['file']}` | {part['stored']} | {inputs} | {', '.join(part['outputs'])} |")
    lines += ["", f"{wording.size(data['bytes_on_disk'])} on disk. All arrays are float32."]
    lines += [f"\n{note}" for note in data["notes"]]
    lines += ["", "## Preparing a scan", "", *_numbered(data["preprocessing"]["steps"])]
    lines += ["", "Every setting stands in `model.json` under `preprocessing`.", ""]
    if data["labels"]:
        listing = ", ".join(f"{label} {name}" for name, label in data["labels"].items())
        lines += ["## Labels", "", f"0 background, {listing}.", ""]
    lines += ["## Quality", "", *_quality_in_words(data), ""]
    lines += ["## Origin", "", f"- Licence of the weights: {data['licence_of_the_weights']}"]
    lines += [
        f"- {key.replace('_', ' ')}: {_plain(value)}"
        for key, value in data["provenance"].items()
        if value and key not in ("licence", "redesign")
    ]
    return "\n".join(lines) + "\n"


def _part(part: Part, file: PartFile) -> dict[str, Any]:
    shapes = {
        key: ["any" if axis in part.dynamic.get(key, ()) else size for axis, size in enumerate(tensor.shape)]
        for key, tensor in part.inputs.items()
    }
    return {"file": file.file, "stored": file.stored, "inputs": shapes, "outputs": list(part.outputs)}


def _quality(report: QuantizationReport) -> dict[str, Any]:
    errors = {layer.name: layer.relative_error for layer in report.layers}
    worst = sorted(errors, key=lambda name: -errors[name])[:_WORST]
    return {
        "layers_quantized": len(report.layers),
        "layers_kept_in_floating_point": report.kept,
        "mean_relative_output_error_of_a_layer": mean(errors.values()) if errors else 0.0,
        "largest_relative_output_errors": {name: errors[name] for name in worst},
        "calibration_inputs": report.calibration_inputs,
    }


def _quality_in_words(data: Mapping[str, Any]) -> list[str]:
    lines = []
    if data["quality"] is not None:
        quality = data["quality"]
        lines = [
            f"- Weights: {data['effective_bits']:.2f} bits each, everything counted.",
            f"- {quality['layers_quantized']} layers quantized, {len(quality['layers_kept_in_floating_point'])} "
            "kept in floating point.",
            f"- Mean relative error of a layer's output on the calibration scans: "
            f"{quality['mean_relative_output_error_of_a_layer']:.3f}. What that means for masks: compare them "
            "(`medquant compare`) on scans of your own.",
        ]
    for one in data["verified"]:
        same = "" if one["same_labels"] is None else f", the same label at {one['same_labels']:.2%} of the places"
        lines.append(
            f"- Verified on the example: {one['part'].replace('_', ' ')} differs from the engine's own network by "
            f"{one['relative']:.1e} of its output (at most {one['bound']:g}){same}."
        )
    return lines


def _numbered(steps: list[str]) -> list[str]:
    return [f"{number}. {step}" for number, step in enumerate(steps, 1)]


def _shape(shape: list[int | str]) -> str:
    return f"({', '.join(str(size) for size in shape)})"


def _plain(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, (list, tuple)) else str(value)
