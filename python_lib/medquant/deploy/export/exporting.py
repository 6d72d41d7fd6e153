"""Export: every part written, run, compared with the engine, and only then put in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medquant.deploy.export.card import card_data, card_text
from medquant.deploy.export.example import engine_outputs, with_example
from medquant.deploy.export.folder import require_free, whole_folder, working_in
from medquant.deploy.export.formats import Format, Settings, Storage, format_named
from medquant.deploy.export.int8_weights import within_seven_bits
from medquant.deploy.export.script import script
from medquant.deploy.export.verify import Difference, verify
from medquant.deploy.int8_codes import LARGEST_CODE, largest_code_here
from medquant.deploy.program import integer_layers
from medquant.errors import UserError, one_of
from medquant.models.base import Model, Part, device_of
from medquant.network_edit import structural_twin
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.quantized_model import QuantizedModel

_LARGE = 1 << 20
_INT8_FORMATS = ("onnx", "openvino", "tensorrt")


@dataclass(frozen=True)
class Exported:
    """An export that was verified."""

    folder: Path
    format: str
    files: dict[str, int]
    """Name and bytes of everything in the folder."""
    bytes_on_disk: int
    """Of the model's own files, without card, script and example."""
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    script: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def export(
    model: Model | QuantizedModel,
    folder: str | Path,
    format_name: str = "onnx",
    *,
    storage: Storage = "auto",
    opset: int | None = None,
    any_processor: bool | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Exported:
    """Write `model` to a new folder as "onnx", "openvino", "tensorrt", "torch" or "artifact", with a card and a script.

    `storage`: how weights lie in the file, "int8" (integer kernels), "packed" (as few bits as the format holds) or
    "auto". `opset`: that of ONNX. `any_processor` rounds weights that are stored as int8 to 7 bits, whose sums cannot
    overflow on x86 processors without VNNI; None does so where this processor is one. Every part is run by the format's
    runtime and compared with the engine's own network on an example; one that differs is refused. Raises `UserError`
    for that, an unknown format, a runtime that is not installed, a folder that is not empty (unless `overwrite` and it
    holds an export), and a full disk.
    """
    report = Progress(progress, cancelled)
    form = format_named(format_name)
    form.version()
    if storage not in ("auto", "int8", "packed"):
        raise UserError(f"Weights cannot be stored as {storage!r}. Choose auto, int8 or packed.")
    if opset is not None and (form.name != "onnx" or not 17 <= opset <= 25):
        raise UserError("An opset of 17 to 25 belongs to the format onnx. Leave --opset out, or choose 21 for 4 bits.")
    target = require_free(Path(folder), overwrite=overwrite)
    model, any_processor = _for_processors(model, form, storage, any_processor)
    adapter = model.model if isinstance(model, QuantizedModel) else model
    if device_of(adapter.network).type != "cpu":  # converters work on the processor
        adapter = adapter.with_network(structural_twin(adapter.network))
    parts = adapter.parts()
    if not all(part.inputs for part in parts.values()):
        raise UserError(f"{model.name} takes inputs of any size, which no file can hold. Give it a roi_size.")
    report.report(0.0, "Preparing an example")
    parts = {name: form.reference(part) for name, part in parts.items()}
    parts = with_example(adapter, parts, report.span(0.0, 0.3))
    expected = _expected(parts, report)
    settings = Settings(storage, opset, any_processor)
    with whole_folder(target, overwrite=overwrite) as made:
        files = {}
        for number, (name, part) in enumerate(parts.items()):
            report.span(0.3, 0.7).report(number / len(parts), f"Writing the {name.replace('_', ' ')}")
            files[name] = working_in(
                made, lambda name=name, part=part: form.write(model, name, part, made, settings), report, writes=True
            )
        sizes = _sizes(made)
        differences = verify(form, parts, files, expected, made, report.span(0.7, 1.0))
        runner = f"run_{form.name}.py"
        bound = max(one.bound for one in differences)
        names = {name: file.file for name, file in files.items()}
        (made / runner).write_text(script(form.name, model.name, parts, names, bound), encoding="utf-8")
        _write_example(made / "example.npz", parts, expected)
        data = card_data(model, form, parts, files, differences, sizes)
        (made / "model.json").write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")
        (made / "README.md").write_text(card_text(data, form, runner), encoding="utf-8")
        report.check()
        written = _sizes(made)
    return Exported(target, form.name, written, sum(sizes.values()), differences, tuple(data["notes"]), runner)


def _for_processors(
    model: Model | QuantizedModel, form: Format, storage: Storage, any_processor: bool | None
) -> tuple[Model | QuantizedModel, bool]:
    """The model as its int8 weights are to be written, and whether they were rounded to 7 bits."""
    able = (
        isinstance(model, QuantizedModel)
        and form.name in _INT8_FORMATS
        and storage != "packed"
        and bool(integer_layers(model.model.network))
    )
    if any_processor and not able:
        raise UserError(
            "Weights for any processor belong to models with 8-bit activations, stored as int8 in the formats "
            f"{one_of(_INT8_FORMATS)}. Leave --any-processor out: nothing overflows in this export."
        )
    if any_processor is None:
        any_processor = able and largest_code_here() < LARGEST_CODE
    return (within_seven_bits(model), True) if any_processor else (model, False)


def _expected(parts: Mapping[str, Part], report: Progress) -> dict[str, np.ndarray]:
    """What the engine gives for each part, by the names of the outputs."""
    inputs = {key: tensor for part in parts.values() for key, tensor in part.inputs.items()}
    found = {}
    for part in parts.values():
        if all(key in inputs for key in part.outputs):  # a later part takes them: they are known
            found |= {key: inputs[key].numpy() for key in part.outputs}
        else:
            outputs = engine_outputs(part, part.inputs, report)
            found |= {key: tensor.numpy() for key, tensor in zip(part.outputs, outputs, strict=True)}
    return found


def _write_example(path: Path, parts: Mapping[str, Part], expected: Mapping[str, np.ndarray]) -> None:
    given = {key: t.numpy() for part in parts.values() for key, t in part.inputs.items() if key not in expected}
    last = next(reversed(parts.values())).outputs[0]
    # Half precision keeps three digits, which is enough to compare with; float32 where an example is small anyway, or
    # holds what half precision does not reach.
    values = expected[last]
    if values.size >= _LARGE and float(np.abs(values).max()) <= np.finfo(np.float16).max:
        values = values.astype(np.float16)
    np.savez_compressed(path, **given, **{f"expected_{last}": values})


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
