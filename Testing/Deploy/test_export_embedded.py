"""Exports of the embedded models: encoder and decoder apart, any number of boxes, few bits, fresh environments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from medquant.deploy.export.example import _scan
from medquant.deploy.export.exporting import export
from medquant.models.base import CalibrationSelection
from medquant.models.registry import load_model
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe


@pytest.fixture(scope="session")
def embedded_w4() -> QuantizedModel:
    """The promptable model at 4 bits, calibrated on one slice: what matters here is where its codes go."""
    recipe = Recipe(weights=IntWeights(4), method="rtn")
    return quantize(load_model("embedded", device="cpu"), _scan(), recipe=recipe, selection=CalibrationSelection(1))


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_encoder_and_decoder_for_any_number_of_boxes(
    format_name: str, embedded_w4: QuantizedModel, tmp_path: Path
) -> None:
    runtime = import_module({"onnx": "onnxruntime"}.get(format_name, format_name))
    made = export(embedded_w4, tmp_path / "made", format_name)
    suffix = {"onnx": ".onnx", "openvino": ".xml"}[format_name]
    assert {f"image_encoder{suffix}", f"mask_decoder{suffix}"} <= set(made.files)
    assert all(one.relative < 1e-4 for one in made.differences)
    parameters = embedded_w4.report.parameters
    assert made.bytes_on_disk < 1.1 * parameters * embedded_w4.report.bits_per_parameter / 8 + 1.5e6  # and the graphs

    side = 256 // 8
    embedding = np.load(made.folder / "example.npz")
    assert embedding["pixels"].shape == (1, 3, 256, 256)
    values = {"embedding": np.zeros((1, 128, side, side), np.float32)}
    for count in (1, 7):
        values["boxes"] = np.tile(np.array([60, 60, 120, 130], np.float32), (1, count, 1))
        path = made.folder / f"mask_decoder{suffix}"
        if format_name == "onnx":
            found = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, values)[0]
        else:
            found = runtime.Core().compile_model(path, "CPU")(values)[0]
        assert found.shape == (count, 128, 128)


@pytest.mark.heavy
@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch", "artifact"])
@pytest.mark.parametrize("name", ["embedded", "embedded-nnunet"])
def test_scripts_run_on_both_models(name: str, format_name: str, tmp_path: Path) -> None:
    recipe = Recipe(weights=IntWeights(2), method="rtn")
    model = quantize(load_model(name, device="cpu"), _scan(), recipe=recipe, selection=CalibrationSelection(1))
    made = export(model, tmp_path / "made", format_name)
    result = subprocess.run([sys.executable, made.folder / made.script], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr


@pytest.mark.heavy
@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_scripts_run_in_a_fresh_environment(
    format_name: str, embedded_w4: QuantizedModel, fresh: Callable[[str], Path], tmp_path: Path
) -> None:
    """Nothing but numpy and the runtime; needs the network."""
    made = export(embedded_w4, tmp_path / "made", format_name)
    package = {"onnx": "onnxruntime"}.get(format_name, format_name)
    python = fresh(f"numpy {package}")
    result = subprocess.run([python, "-I", made.folder / made.script], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert subprocess.run([python, "-I", "-c", "import medquant"], capture_output=True).returncode != 0
