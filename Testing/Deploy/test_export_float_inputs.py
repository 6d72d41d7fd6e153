"""Exports of a model on integers with some inputs in floating point: those layers' weights are codes there too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.deploy.export import openvino_format
from medquant.deploy.export.exporting import Exported, export
from medquant.deploy.export.opened import OpenedPart
from medquant.deploy.openvino_runtime import OpenVinoSession
from medquant.deploy.program import integer_layers
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

FLOATING = ("wide", "grouped", "up")
SHAPE = (1, 1, 4, 16, 16)
ROOM = 64_000
"""For graphs, scales, offsets and biases; a weight in FP32 takes three bytes more than its code."""


class Net(nn.Module):
    """Six layers; all but the first and the last two are wide."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 16, 3, padding=1)
        self.wide = nn.Conv3d(16, 128, 3, padding=1)
        self.grouped = nn.Conv3d(128, 128, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose3d(128, 64, 2, 2)
        self.down = nn.Conv3d(64, 8, 2, 2)
        self.last = nn.Conv3d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.wide(torch.relu(self.first(x))))
        x = torch.relu(self.up(torch.relu(self.grouped(x))))
        return self.last(torch.relu(self.down(x)))


@pytest.fixture(autouse=True)
def small_example(small_scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of a few patches in place of the phantom, which takes seconds."""
    monkeypatch.setattr("medquant.deploy.export.example._scan", lambda: small_scan)


@pytest.fixture(scope="module")
def partly(small_scan: Volume) -> Callable[[int], QuantizedModel]:
    """The network with three inputs in floating point, by the bits of its weights, quantized once."""

    @cache
    def made(bits: int) -> QuantizedModel:
        torch.manual_seed(0)
        recipe = Recipe(
            weights=IntWeights(bits),
            method="rtn",
            activations=IntActivations(8),
            float_inputs=FLOATING,
            ends_bits=None,
            extra_bits=0,
            drop_dead_channels=False,
            calibration=CalibrationSettings(sequential=False, shrink=False, positions_per_input=64),
        )
        model = from_module(Net(), name="partly", roi_size=SHAPE[2:])
        found = quantize(model, small_scan, recipe=recipe, selection=CalibrationSelection(1))
        assert integer_layers(found.model.network) == ["first", "down", "last"]
        return found

    return made


def bytes_of_codes(bits: int, bits_on_integers: int = 8) -> float:
    """What the codes take, those of the layers on integers a byte each."""
    counts = {name: layer.weight.numel() for name, layer in Net().named_children()}
    return sum(count * (bits if name in FLOATING else bits_on_integers) / 8 for name, count in counts.items())


@pytest.mark.parametrize(
    ("format_name", "bits", "options"),
    [("onnx", 8, {}), ("onnx", 4, {"opset": 21}), ("openvino", 8, {}), ("openvino", 4, {})],
    ids=["onnx-8", "onnx-4", "openvino-8", "openvino-4"],
)
def test_weights_are_codes_in_the_file_whatever_the_input_is(
    format_name: str, bits: int, options: dict, partly: Callable, tmp_path: Path
) -> None:
    model = partly(bits)
    made = export(model, tmp_path / "made", format_name, **options)
    codes = bytes_of_codes(bits)
    assert codes <= made.bytes_on_disk <= codes + ROOM
    assert all(one.relative <= one.bound for one in made.differences)
    assert f"packed codes of {bits} bits" in (made.folder / "README.md").read_text()
    image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = model.model.network(image).numpy()
    found = run(made, image.numpy())
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_openvino_decodes_the_codes_when_it_loads_them_not_at_every_pass(
    partly: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it executes is the same as of an export with decoded weights, so that it is as fast."""
    small = export(partly(8), tmp_path / "small", "openvino")
    monkeypatch.setattr(openvino_format, "opened", lambda part, **_: OpenedPart(part, {}))
    large = export(partly(8), tmp_path / "large", "openvino")
    assert large.bytes_on_disk > small.bytes_on_disk + 2.8 * bytes_of_codes(8, 0)
    assert executed(small) == executed(large)


def test_the_others_are_on_integers_in_the_file_too(partly: Callable, tmp_path: Path) -> None:
    made = export(partly(8), tmp_path / "made", "openvino")
    session = OpenVinoSession(openvino.Core().compile_model(made.folder / "network.xml", "CPU"), "int8", "CPU", 3)
    assert (session.integer_layers, session.layers) == (3, 6) and not session.simulated


def run(made: Exported, image: np.ndarray) -> np.ndarray:
    """By the format's own runtime, in FP32 around the integers."""
    if made.format == "onnx":
        session = onnxruntime.InferenceSession(made.folder / "network.onnx", providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: image})[0]
    compiled = openvino.Core().compile_model(made.folder / "network.xml", "CPU", openvino_format.AS_VERIFIED)
    return compiled(image)[0]


def executed(made: Exported) -> Counter[tuple[str, str]]:
    """How often each kind of operation, and what computes it, is in the graph that OpenVINO has made of a file."""
    compiled = openvino.Core().compile_model(made.folder / "network.xml", "CPU")
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(node["layerType"].astype(str), node["primitiveType"].astype(str)) for node in nodes]
    return Counter(kind for kind in kinds if kind[0] != "Const")
