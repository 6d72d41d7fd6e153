"""How numbers are written for people: units, sensible digits, one way everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter

from medquant.evaluation.comparison import ModelSummary
from medquant.quantized_model import QuantizationReport
from medquant.rewrites.redesign_report import is_redesigned

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

AS_FP32 = "masks as FP32"
SMALL_LOSS = "small loss"
VISIBLE_LOSS = "visible loss: look"
SEARCHED = "2 to 8 bits"
"""A model whose layers have the bits that a search gave them; its recipe calls itself "mixed"."""
RUNTIMES = {
    "pytorch": "PyTorch",
    "pytorch-compiled": "compiled PyTorch",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
}
"""What the options call by the first name calls itself by the second."""


def score(value: float | None) -> str:
    """Dice or NSD in three digits: .994; 1.000 only where it is exactly one."""
    if value is None:
        return NOTHING
    if value == 1.0:
        return "1.000"
    text = f"{value:.3f}"
    return ">.999" if text == "1.000" else text.removeprefix("0")


def difference(value: float | None) -> str:
    """Of two Dice: .012, \N{MINUS SIGN}.003, .000."""
    return NOTHING if value is None else _signed(value, 3)


def correlation(value: float) -> str:
    """Of ranks: .93, \N{MINUS SIGN}.20, 1.00."""
    return _signed(value, 2)


def distance(value: float | None) -> str:
    """Millimetres: 2.3; a dash where a mask is missing."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1f}"


def volume(value: float | None) -> str:
    """Millilitres: 148.2."""
    return NOTHING if value is None else f"{value:.1f}"


def change(value: float | None) -> str:
    """A signed difference: +0.4, \N{MINUS SIGN}1.2, 0.0."""
    if value is None:
        return NOTHING
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0.0 else text.replace("-", MINUS)


def bits(value: float | None) -> str:
    """Effective bits per weight: 4.3; 32."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def stored_bits(report: QuantizationReport) -> str:
    """What a number takes on disk, with and without all that is not a layer's weight."""
    return (
        f"{report.effective_bits:.2f} bits for each weight, {report.bits_per_parameter:.2f} with all that is stored "
        "beside the weights"
    )


def size(count: int | None) -> str:
    """Bytes: 52 MB, 7.7 MB, 640 kB (powers of 1000)."""
    if count is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= 0.9995 * factor:
            return f"{_three_digits(count / factor)} {unit}"
    return f"{max(1, round(count / 1e3))} kB"


def percent(part: float) -> str:
    """A part of one in per cent, without the sign: "0.03", "1.2", "34"; an output that is no number at all: "inf"."""
    if not math.isfinite(part):
        return "inf"
    hundredths = 100 * part
    return (
        f"{hundredths:.0f}"
        if abs(hundredths) >= 9.95
        else f"{hundredths:.1f}"
        if abs(hundredths) >= 0.095
        else f"{hundredths:.2f}"
    )


def model_size(model: ModelSummary) -> str:
    """What a model's weights take by one yardstick: FP32 means 4 bytes for each weight, whatever its own file stores
    them in; a quantized model is as large as its file.
    """
    return size((model.bytes_fp32 if (model.weight_bits or 0) >= 32 else None) or model.bytes_on_disk)


def memory(megabytes: float | None) -> str:
    """Megabytes: 900 MB, 1.4 GB."""
    return NOTHING if megabytes is None else size(round(megabytes * 1e6))


def seconds(value: float | None) -> str:
    """A duration: 28 ms, 1.02 s, 12.3 s, 2:05 min."""
    if value is None:
        return NOTHING
    if 0 < value < 0.0995:
        return f"{value * 1000:.0f} ms" if value >= 0.0095 else f"{value * 1000:.1f} ms"
    if value < 99.95:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}:{rest:02d} min"


def kernels(model: ModelSummary) -> str:
    """What did the arithmetic: `int8 kernels`, `int8 kernels, 3/74 float32`, `simulated`, `float32`, or a dash."""
    if model.simulated is not None:
        rest = f", {model.floating_layers}/{model.layers} float32" if model.floating_layers else ""
        return "simulated" if model.simulated else f"int8 kernels{rest}"
    if model.precision not in ("", "fp32"):
        return model.precision
    return "float32" if model.precision or (model.weight_bits or 0) >= 32 else NOTHING


def computed(model: ModelSummary) -> str:
    """`kernels`, and the runtime where it is not PyTorch: `int8 kernels (OpenVINO)`."""
    told = kernels(model)
    return told if model.runtime in ("", "pytorch") else f"{told} ({runtime(model.runtime)})"


def runtime(name: str) -> str:
    """A runtime as it calls itself: `ONNX Runtime`."""
    return RUNTIMES.get(name, name)


def judged(model: ModelSummary) -> str:
    """The verdict, and what it is for where something was lost: `small loss (spleen, Dice .962)`."""
    return f"{model.verdict} ({model.verdict_reason})" if model.verdict_reason else model.verdict


def keeps_masks(model: ModelSummary) -> bool:
    """Whether the masks of a quantized model are as FP32."""
    return model.verdict == AS_FP32


def smallest_as_fp32(quantized: Sequence[ModelSummary]) -> ModelSummary | None:
    """The smallest model whose masks are as FP32: on disk or, where not all have a file, by bits per weight.

    None where no model keeps the masks, and where nothing is known of their size.
    """
    safe = [model for model in quantized if keeps_masks(model)]
    for size_of in (attrgetter("bytes_on_disk"), attrgetter("effective_bits")):
        if safe and None not in map(size_of, safe):
            return min(safe, key=size_of)
    return None


def saving(model: ModelSummary) -> str:
    """`2.5 MB, 6.1 times smaller than in FP32 (15.3 MB)`; empty where a size is not known."""
    if not (model.bytes_on_disk and model.bytes_fp32):
        return ""
    times = model.bytes_fp32 / model.bytes_on_disk
    return f"{size(model.bytes_on_disk)}, {times:.1f} times smaller than in FP32 ({size(model.bytes_fp32)})"


def short_names(models: Sequence[ModelSummary]) -> dict[str, str]:
    """By name: FP32, 8-bit, 4-bit ... where the bits tell the models apart, else names without their common words;
    "2 to 8 bits" where layers have different ones."""
    nominal = [model.weight_bits for model in models]
    different = any(is_redesigned(model.name) for model in models)  # which the bits would not tell
    if None not in nominal and len(set(nominal)) == len(nominal) and not different:
        return {model.name: "FP32" if model.weight_bits >= 32 else f"{model.weight_bits}-bit" for model in models}
    words = [model.name.split(" ") for model in models]
    shared = 0
    while len(models) > 1 and all(len(w) > shared + 1 and w[shared] == words[0][shared] for w in words):
        shared += 1
    names = [" ".join(w[shared:]) for w in words]
    return {model.name: SEARCHED if name == "mixed" else name for model, name in zip(models, names, strict=True)}


def title(model: str, quantized: Sequence[ModelSummary]) -> str:
    """What a comparison is about: "MedSAM ViT-B at 8, 4 and 2 bits"."""
    nominal = list(dict.fromkeys(str(m.weight_bits) for m in quantized if m.weight_bits is not None))
    if not nominal:
        return model
    return f"{model} at {' and '.join(filter(None, [', '.join(nominal[:-1]), nominal[-1]]))} bits"


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return (MINUS if value < 0 and float(text) else "") + text.removeprefix("0")


def _three_digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
