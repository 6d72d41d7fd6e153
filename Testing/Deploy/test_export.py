"""Exports of a small network of patches: run without this package, verified, small, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.activations import ActivationQuantizer
from medquant.deploy.export import onnx_format
from medquant.deploy.export.exporting import Exported, export
from medquant.deploy.export.folder import whole_folder
from medquant.deploy.export.formats import PartFile
from medquant.deploy.export.stored_weight import StoredWeight, stored_weight
from medquant.deploy.export.torch_format import _in_plain_arithmetic
from medquant.deploy.program import static_quantizer
from medquant.errors import Cancelled, UserError
from medquant.granularity import PerGroup
from medquant.imaging.volume import Volume
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationSelection
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

CARD = {"README.md", "model.json", "example.npz"}


@pytest.fixture(autouse=True)
def small_example(small_scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of a few patches in place of the phantom, which takes seconds."""
    monkeypatch.setattr("medquant.deploy.export.example._scan", lambda: small_scan)


@pytest.fixture(scope="session")
def two_bits(patchwise: TorchModel, small_scan: Volume) -> QuantizedModel:
    """All layers at 2 bits, several groups of rows."""
    recipe = Recipe(weights=IntWeights(2, PerGroup(32)), ends_bits=None, extra_bits=0)
    return quantize(patchwise, small_scan, recipe=recipe)


def run_without_medquant(script: Path) -> subprocess.CompletedProcess[str]:
    """A fresh process in which medquant cannot be imported."""
    guard = (
        "import runpy, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'medquant': raise ImportError('medquant is not here')\n"
        "sys.meta_path.insert(0, Without())\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", guard, str(script)], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("which", ["integer_patchwise", "two_bits"])
def test_an_export_runs_without_this_package(
    format_name: str, which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    made = export(model, tmp_path / "made", format_name)
    assert {path.name for path in made.folder.iterdir()} >= CARD | {f"run_{format_name}.py"}
    assert all(one.relative <= one.bound for one in made.differences)
    text = (made.folder / made.script).read_text()
    assert "medquant" not in text
    assert len([line for line in text.splitlines() if line and not line.startswith(('"', "import", "from"))]) <= 12
    result = run_without_medquant(made.folder / made.script)
    assert result.returncode == 0, result.stderr
    assert "logits (1, 3, 4, 16, 16)" in result.stdout


def test_the_script_sees_a_changed_export(light_patchwise: QuantizedModel, tmp_path: Path) -> None:
    made = export(light_patchwise, tmp_path / "made", "onnx")
    path = made.folder / "network.onnx"
    network = onnx.load(path)
    for tensor in network.graph.initializer:
        if tensor.name.endswith(".codes"):
            tensor.raw_data = bytes(byte ^ 0xFF for byte in tensor.raw_data)
    onnx.save(network, path)
    result = run_without_medquant(made.folder / made.script)
    assert result.returncode == 1
    assert "differ" in result.stdout


@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch"])
def test_an_export_that_differs_is_refused(
    format_name: str, light_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes are changed on their way into the file, by one in the last place of a whole layer."""

    def changed(layer: QuantizedLayer) -> StoredWeight | None:
        found = stored_weight(layer)
        found.codes[...] ^= 1
        return found

    monkeypatch.setattr("medquant.deploy.export.opened.stored_weight", changed)
    with pytest.raises(UserError, match="differs from the model by"):
        export(light_patchwise, tmp_path / "made", format_name)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("which", ["patchwise", "two_bits", "integer_patchwise"])
def test_stored_weights_decode_to_the_layers_own(which: str, request: pytest.FixtureRequest) -> None:
    from medquant.deploy.export.opened import PackedLayer

    network = getattr(request.getfixturevalue(which), "model", request.getfixturevalue(which)).network
    layers = [layer for layer in network.modules() if isinstance(layer, QuantizedLayer)]
    assert bool(layers) == (which != "patchwise")
    for layer in layers:
        decoded = PackedLayer(layer, None, stored_weight(layer)).weight()
        torch.testing.assert_close(decoded, layer.weight, rtol=0, atol=1e-6)


def test_the_card_says_what_is_needed(integer_patchwise: QuantizedModel, tmp_path: Path) -> None:
    made = export(integer_patchwise, tmp_path / "made", "onnx")
    data = json.loads((made.folder / "model.json").read_text())
    assert data["recipe"] == json.loads(json.dumps(integer_patchwise.recipe.to_dict()))
    assert data["effective_bits"] == integer_patchwise.report.effective_bits
    assert data["bytes_on_disk"] == sum((made.folder / name).stat().st_size for name in data["files"])
    assert data["provenance"]["calibration_sha256"] == list(integer_patchwise.provenance.calibration_sha256)
    assert data["verified"][0]["relative"] <= data["verified"][0]["bound"]
    text = (made.folder / "README.md").read_text()
    for needed in ("Not for clinical use", "Licence of the weights", "Preparing a scan", "run_onnx.py"):
        assert needed in text


def test_the_artifact_is_the_models_own_file(integer_patchwise: QuantizedModel, tmp_path: Path) -> None:
    """A network of the user's own cannot be loaded without it, so this export is refused and leaves nothing."""
    with pytest.raises(UserError, match="made from a network in Python"):
        export(integer_patchwise, tmp_path / "made", "artifact")
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_gives_onnx_and_the_command(
    patchwise: TorchModel, small_scan: Volume, integer_patchwise: QuantizedModel, tmp_path: Path
) -> None:
    asymmetric = export(integer_patchwise, tmp_path / "half", "tensorrt")
    assert any("around zero" in note for note in asymmetric.notes)
    recipe = Recipe(weights=IntWeights(8), activations=IntActivations(symmetric=True), method="rtn")
    made = export(quantize(patchwise, small_scan, recipe=recipe), tmp_path / "int8", "tensorrt")
    command = (made.folder / "build_engines.sh").read_text()
    assert command.startswith("trtexec --onnx=network.onnx --saveEngine=network.engine --fp16 --int8")
    assert not any("VNNI" in note for note in made.notes)  # a GPU is not concerned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format_name": "tflite"}, "no export format 'tflite'. Choose onnx"),
        ({"storage": "tiny"}, "Choose auto, int8 or packed"),
        ({"opset": 12}, "opset of 17 to 25"),
        ({"format_name": "openvino", "opset": 21}, "belongs to the format onnx"),
        ({"storage": "int8"}, "Use --storage packed"),
        ({"any_processor": True}, "Leave --any-processor out"),
    ],
)
def test_what_cannot_be_is_told(
    arguments: dict[str, object], message: str, light_patchwise: QuantizedModel, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        export(light_patchwise, tmp_path / "made", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format_name", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_is_named(
    format_name: str, library: str, light_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    real = metadata.version

    def version(name: str) -> str:
        if name.startswith(library):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=rf"pip install .*{library}"):
        export(light_patchwise, tmp_path / "made", format_name)
    assert list(tmp_path.iterdir()) == []


def test_folders_in_use(light_patchwise: QuantizedModel, patchwise: TorchModel, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    export(light_patchwise, folder, "onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"not empty\. Choose another, or add --overwrite"):
        export(patchwise, folder, "onnx")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    export(patchwise, folder, "onnx", overwrite=True)
    assert json.loads((folder / "model.json").read_text())["recipe"] is None
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("a year's work")
    with pytest.raises(UserError, match="is not replaced"):
        export(patchwise, other, "onnx", overwrite=True)
    assert (other / "chapter.txt").read_text() == "a year's work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "thesis"]


def test_a_full_disk_leaves_the_earlier_export(
    light_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    export(light_patchwise, folder, "onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match="The disk is full"):
        export(light_patchwise, folder, "onnx", overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_stopping_leaves_nothing(light_patchwise: QuantizedModel, tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(Cancelled):
        export(
            light_patchwise,
            tmp_path / "made",
            "onnx",
            progress=lambda event: seen.append(event.message),
            cancelled=lambda: any("Checking" in message for message in seen),
        )
    assert any("Writing" in message for message in seen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("patience", [30.0, 0.05])
def test_stopping_inside_a_slow_writer_leaves_nothing(
    patience: float, light_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that cannot be interrupted, makes its folder where it is gone, and keeps files open."""
    writing, done = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> PartFile:
        folder = next(argument for argument in arguments if isinstance(argument, Path))
        for number in range(20):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{number}.bin").open("wb") as stream:
                writing.set()
                stream.write(bytes(1000))
                time.sleep(0.02)
        done.set()
        return PartFile("0.bin", "nothing")

    monkeypatch.setattr("medquant.deploy.export.onnx_format.OnnxFormat.write", slow)
    monkeypatch.setattr("medquant.deploy.export.folder.PATIENCE", patience)
    with pytest.raises(Cancelled):
        export(light_patchwise, tmp_path / "made", "onnx", cancelled=writing.is_set)
    if patience > 1:
        assert done.is_set() and list(tmp_path.iterdir()) == []
    assert done.wait(30)
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_an_error_holds_is_let_go_before_the_folder_is_removed(tmp_path: Path, wrapped: bool) -> None:
    """On Windows, files that a session keeps open can neither be removed nor replaced."""
    held: list[weakref.ref] = []
    alive: list[bool] = []

    class Session:
        pass

    def check() -> None:
        session = Session()
        held.append(weakref.ref(session))
        raise UserError("It differs. Try another.")

    def rmtree(folder: Path, **options: object) -> None:
        alive.append(held[0]() is not None)
        real(folder, **options)

    real = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(UserError), whole_folder(tmp_path / "made"):
            if not wrapped:
                check()
            try:
                check()
            except UserError as error:
                raise UserError("The export differs.") from error
    assert alive == [False] and list(tmp_path.iterdir()) == []
