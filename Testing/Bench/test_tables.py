"""The tables of the benchmarks in a terminal of 80 columns."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from medquant.bench.autoquant import beaten
from medquant.bench.runtime import _with_speedups
from medquant.commands.bench_tables import print_autoquant, print_pipeline, print_quality, print_runtimes
from medquant.commands.session import Session


def _rows(*measured: tuple[str, str, float | None], **facts: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for runtime, precision, seconds in measured:
        row = {"network": "nnU-Net", "runtime": runtime, "precision": precision, "version": "2.13.0+cpu"}
        row |= {"seconds": seconds, "peak_memory_mb": 1024.0, "dsc_vs_fp32": 0.9987, "start_seconds": 12.34, **facts}
        rows.append(_with_speedups(row, rows))
    return rows


def _printed(rows: list[dict[str, Any]], show: Callable[[Session, Any], None] = print_runtimes) -> str:
    stream = io.StringIO()
    show(Session(Console(file=stream, width=80, emoji=False)), rows)
    told = stream.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in told, "a figure was cut off"
    return told


def test_a_table_of_runtimes_is_whole_in_80_columns() -> None:
    rows = _rows(("pytorch", "fp32", 125.0), ("onnxruntime", "fp32", 99.0), ("openvino", "int8", 2.34),
                 quantize_seconds=81.5)  # fmt: skip
    told = _printed([*rows, *_rows(("tensorrt", "int8", None), note="absent: not installed.")])
    assert all(word in told for word in ("precision", "onnxruntime", "2:05 min", "53.42x", "81.5 s", "2.13.0+cpu"))
    assert "tensorrt int8: absent: not installed." in told
    assert "Fastest: openvino int8, 2.34 s for one pass." in told


def test_columns_without_a_figure_are_left_out() -> None:
    told = _printed(_rows(("pytorch", "fp32", 0.1), ("openvino", "fp32", 0.05)))
    assert "made" not in told and "start" in told
    line = next(line for line in told.splitlines() if line.startswith("pytorch "))
    assert line.count("x") == 1, "PyTorch's own FP32 is PyTorch"


def _line(told: str, *words: str) -> list[str]:
    (found,) = (line.split() for line in told.splitlines() if all(word in line for word in words))
    return found


def test_figures_by_kernels_are_told_and_what_is_simulated() -> None:
    def row(method: str, settings: str, granularity: str, bits: int, kernels: float | None) -> dict[str, Any]:
        scores = {"dsc_vs_fp32": 0.9921, "dsc_vs_reference": 0.7834, "dsc_by_kernels_vs_fp32": kernels}
        told = {"network": "allconvunet_tcia_fold2", "method": method, "settings": settings, "granularity": granularity}
        simulated = kernels is None and bits < 32
        widths = {"weight_bits": bits, "activation_bits": bits, "effective_bits": 7.634, "simulated": simulated}
        return told | scores | widths

    rows = [row("fp32", "", "", 32, None), row("permutation-comq", "float inputs", "per-tensor", 8, 0.9916)]
    told = _printed([*rows, row("rtn", "published", "adaptive", 8, None)], print_quality)
    assert _line(told, "permutation-comq")[-5:] == ["W8A8", "7.63", ".992", ".783", ".992"]
    assert _line(told, "published")[-1] == "\N{EN DASH}" and "simulated" in told
    weights_alone = [{**one, "activation_bits": 32, "simulated": True} for one in rows]
    told = _printed(weights_alone, print_quality)
    assert "kernels" not in told and _line(told, "permutation-comq")[-4:] == ["W8", "7.63", ".992", ".783"]


def test_long_recipes_leave_figures_whole() -> None:
    recipe = "W2 to W8 layer by layer, per-channel, asymmetric, permutation-comq, 12 overrides, the ends at 8 bits"
    row = {"network": "n", "kind": "mixed", "recipe": recipe, "bytes_on_disk": 248_000, "effective_bits": 2.066}
    told = _printed([row | {"dsc_vs_fp32": 0.9653, "dsc_vs_reference": 0.7718}], print_autoquant)
    assert _line(told, "mixed", "kB")[-5:] == ["248", "kB", "2.07", ".965", ".772"]
    assert "ends at 8 bits" in " ".join(told.split())
    assert "uniform: the same bits in every layer" in " ".join(told.split())


def test_whether_mixed_models_are_worth_it_is_told() -> None:
    def row(kind: str, kilobytes: int, dsc: float, network: str = "n") -> dict[str, Any]:
        row = {"network": network, "kind": kind, "recipe": "W3", "bytes_on_disk": 1000 * kilobytes}
        return row | {"effective_bits": 3.0, "dsc_vs_fp32": dsc, "dsc_vs_reference": 0.7}

    good = [row("uniform", 200, 0.95), row("mixed", 240, 0.95), row("uniform", 241, 0.97), row("default", 230, 0.99)]
    assert beaten(good) == []
    assert "Each mixed model is at least as near to FP32" in " ".join(_printed(good, print_autoquant).split())
    poor = [*good, row("mixed", 300, 0.96), row("uniform", 220, 0.99, network="other")]
    assert beaten(poor) == [(poor[4], poor[2])]
    told = " ".join(_printed(poor, print_autoquant).split())
    assert "Mixed at 300 kB is not as near to FP32 as the same bits everywhere at 241 kB." in told
    assert "Each mixed model" not in told


def test_a_pipeline_is_whole_in_80_columns() -> None:
    row = {"case": "phantom", "engine": "medquant openvino", "precision": "int8", "seconds": 129.77}
    row |= {"speedup_vs_peer": 7.3, "memory_vs_peer": 0.3, "peak_memory_mb": 12_345.0, "dsc_vs_peer": 0.9996}
    told = _printed([row | {"differing_voxels": 52_000_000, "stages": {"network": 9.42}}], print_pipeline)
    assert _line(told, "int8", "GB")[-5:] == ["12", "GB", "0.30", ">.999", "52,000,000"]


def test_what_the_peer_does_not_do_is_told_below_the_table() -> None:
    beyond = {"the choice of float inputs": 40.0, "the solver permutation-comq": 21.5}
    rows = _rows(("pytorch", "fp32", 2.0), ("openvino", "int8", 1.0), quantize_seconds=90.0, beyond_peer=beyond)
    told = " ".join(_printed(rows).split())
    sentence = (
        "Made in: with the choice of float inputs (40.0 s) and the solver permutation-comq (21.5 s), which NNCF's"
    )
    assert told.count(sentence) == 1
    assert "Made in" not in _printed(_rows(("openvino", "int8", 1.0), quantize_seconds=90.0))


def test_layers_in_floating_point_are_told_below_the_table_of_quality() -> None:
    row = {"network": "n", "method": "permutation-comq", "settings": "float inputs", "weight_bits": 8}
    row |= {"activation_bits": 8, "granularity": "per-tensor", "effective_bits": 8.0, "simulated": False}
    row |= {"dsc_vs_fp32": 0.996, "dsc_vs_reference": 0.78, "dsc_by_kernels_vs_fp32": 0.996, "layers": 17}
    rows = [{**row, "floating_layers": 11}, {**row, "settings": "default", "floating_layers": 0}]
    (told,) = [line for line in _printed(rows, print_quality).splitlines() if "in floating point" in line]
    assert told == "float inputs, W8A8 per-tensor: 11 of 17 layers in floating point"
