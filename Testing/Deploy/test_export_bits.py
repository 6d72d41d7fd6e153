"""Few bits are few bytes in an export, and as many as runtimes and processors can take."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from fresh_process import run_without_medquant
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.activations import ActivationQuantizer
from medquant.deploy.export import onnx_format
from medquant.deploy.export.exporting import Exported, export
from medquant.deploy.export.torch_format import _in_plain_arithmetic
from medquant.deploy.program import static_quantizer
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

pytestmark = pytest.mark.usefixtures("small_example")
BY_SIZE_ALONE = CalibrationSettings(sequential=False, shrink=False, positions_per_input=64)
"""For tests that look at files, not at what the network sees: no second moments."""


@pytest.fixture(scope="module")
def wide(small_scan: Volume) -> Callable[[int, int], QuantizedModel]:
    """A network by the width of its middle and the bits of its weights, quantized once."""

    @cache
    def made(width: int, bits: int) -> QuantizedModel:
        torch.manual_seed(0)
        layers = [nn.Conv3d(1, 64, 1), nn.Conv3d(64, width, 3, padding=1), nn.Conv3d(width, 2, 1)]
        model = from_module(nn.Sequential(*layers), name="wide", roi_size=(4, 8, 8))
        same = {"ends_bits": None, "extra_bits": 0, "drop_dead_channels": False, "calibration": BY_SIZE_ALONE}
        recipe = Recipe(weights=IntWeights(bits), method="rtn", **same)
        return quantize(model, small_scan, recipe=recipe, selection=CalibrationSelection(1))

    return made


@pytest.mark.parametrize(("format_name", "bits"), [("onnx", 2), ("onnx", 4), ("openvino", 2), ("torch", 2)])
def test_few_bits_are_few_bytes(format_name: str, bits: int, wide: Callable, tmp_path: Path) -> None:
    """What a hundred thousand weights more take: their bits and, for each output, a scale and an offset."""
    sizes = [export(wide(width, bits), tmp_path / str(width), format_name).bytes_on_disk for width in (8, 64)]
    more = 56 * (64 * 27 + 2) * bits / 8
    assert more <= sizes[1] - sizes[0] <= more + 56 * 16 + 4096


@given(st.integers(2, 8), st.booleans(), st.floats(0.001, 2), st.floats(0, 1), st.integers(0, 99))
def test_plain_arithmetic_rounds_as_torch_does(
    bits: int, symmetric: bool, scale: float, zero: float, seed: int
) -> None:
    levels = 2**bits - symmetric
    zero = (levels - 1) // 2 if symmetric else round(zero * (levels - 1))
    values = torch.randn(2000, generator=torch.Generator().manual_seed(seed)) * scale * levels / 2
    values[:100] = (torch.arange(100) - 50.5) * scale  # midway between two levels
    quantizer = ActivationQuantizer(bits, "tensor", symmetric=symmetric, channel_axis=1)
    quantizer.scale, quantizer.zero = torch.tensor(scale), torch.tensor(zero, dtype=torch.int32)
    exported = static_quantizer(quantizer)
    expected = exported(values)
    assert torch.equal(_in_plain_arithmetic(exported)(values), expected)


@pytest.fixture(scope="module")
def wide_w2a8(small_scan: Volume) -> QuantizedModel:
    """110,592 weights of 2 bits in one layer, activations of 8."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 64, 1), nn.ReLU(), nn.Conv3d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv3d(64, 2, 1)]
    model = from_module(nn.Sequential(*layers), name="wide", roi_size=(4, 8, 8))
    weights = IntWeights(2, zero_point="half")  # which int8 has exactly
    same = {"ends_bits": None, "extra_bits": 0, "calibration": BY_SIZE_ALONE}
    recipe = Recipe(weights=weights, activations=IntActivations(observer="min-max"), method="rtn", **same)
    return quantize(model, small_scan, recipe=recipe, selection=CalibrationSelection(1))


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_fewer_bits_with_integer_activations(format_name: str, wide_w2a8: QuantizedModel, tmp_path: Path) -> None:
    """As int8, which card and result say, or packed: small, and the same."""
    quantized = wide_w2a8
    wide = export(quantized, tmp_path / "wide", format_name)
    packed = export(quantized, tmp_path / "packed", format_name, storage="packed")
    count = 64 * 64 * 27
    assert wide.bytes_on_disk > count > packed.bytes_on_disk * 2 > count / 2
    assert any("2 bits are stored as int8" in note and "--storage packed" in note for note in wide.notes)
    assert "2 bits are stored as int8" in (wide.folder / "README.md").read_text(encoding="utf-8")
    assert not any("int8" in note for note in packed.notes)
    seven = export(quantized, tmp_path / "seven", format_name, any_processor=True)
    assert all(any(words in note for note in seven.notes) for words in ("2 bits are stored as int8", "to 7 bits"))
    assert all(one.relative <= one.bound for one in (*wide.differences, *packed.differences))
    assert run_without_medquant(packed.folder / packed.script).returncode == 0


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_seven_bits_cannot_overflow_anywhere(
    format_name: str, integer_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export(integer_patchwise, tmp_path / "plain", format_name, any_processor=False)
    assert any("without VNNI" in note for note in plain.notes) and largest_code(plain) > 64
    monkeypatch.setattr("medquant.deploy.export.exporting.largest_code_here", lambda: 63)
    made = export(integer_patchwise, tmp_path / "made", format_name)
    assert any("7 bits" in note for note in made.notes) and 60 <= largest_code(made) <= 63
    assert all(one.relative <= one.bound for one in made.differences)
    assert "without VNNI" in (made.folder / "README.md").read_text(encoding="utf-8")


def largest_code(made: Exported) -> int:
    """The largest int8 constant of an export, in size."""
    if made.format == "onnx":
        tensors = onnx.load(made.folder / "network.onnx").graph.initializer
        codes = [onnx.numpy_helper.to_array(one) for one in tensors if one.data_type == onnx.TensorProto.INT8]
    else:
        nodes = openvino.Core().read_model(made.folder / "network.xml").get_ops()
        constants = (node for node in nodes if node.get_type_name() == "Constant")
        codes = [one.data for one in constants if one.get_element_type().get_type_name() == "i8"]
    return max(int(np.abs(one.astype(int)).max()) for one in codes if one.ndim > 1)


class Placed(nn.Module):
    """A convolution, a large table of positions, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv3d(1, 64, 1), nn.Conv3d(64, 2, 1)
        self.places = nn.Parameter(torch.randn(1, 64, 4, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu() + self.places)


@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch"])
def test_large_tables_are_stored_in_half_precision(format_name: str, small_scan: Volume, tmp_path: Path) -> None:
    model = from_module(Placed(), name="placed", roi_size=(4, 16, 16))
    quantized = quantize(model, small_scan, recipe=Recipe(weights=IntWeights(4), method="rtn"))
    places = quantized.model.network.places
    made = export(quantized, tmp_path / "made", format_name)
    assert 2 * places.numel() < made.bytes_on_disk < 3.5 * places.numel()
    assert quantized.model.network.places is places and places.dtype == torch.float32


def test_older_onnx_takes_more_bits_and_says_so(two_bits: QuantizedModel, tmp_path: Path) -> None:
    if not onnx_format.loads(2):
        pytest.skip("the installed onnxruntime knows no integers of 2 bits")
    newest, older = (export(two_bits, tmp_path / str(opset), "onnx", opset=opset) for opset in (25, 21))
    assert newest.bytes_on_disk < older.bytes_on_disk
    assert not newest.notes
    assert "--format artifact" in older.notes[0]


def test_onnxruntime_that_knows_no_two_bits_gets_four(
    two_bits: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As version 1.23, the last one for Python 3.10."""
    session = onnxruntime.InferenceSession

    def older(model: bytes | Path, *arguments: object, **options: object) -> onnxruntime.InferenceSession:
        made = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        if made.opset_import[0].version > 23:
            raise RuntimeError("Opset 25 is under development")
        return session(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", older)
    monkeypatch.setattr(onnx_format, "loads", onnx_format.loads.__wrapped__)
    made = export(two_bits, tmp_path / "made", "onnx")
    assert onnx.load(made.folder / "network.onnx").opset_import[0].version == 21
    assert "ONNX opset 21 has no integers of 2 bits" in made.notes[0]
    with pytest.raises(UserError, match=r"cannot load the export.*--opset"):
        export(two_bits, tmp_path / "newest", "onnx", opset=25)
