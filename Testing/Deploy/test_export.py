"""Exports of a small network of patches: run without this package, verified, described, refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from fresh_process import run_without_medquant

from medquant.activation_settings import IntActivations
from medquant.deploy.export.exporting import export
from medquant.deploy.export.stored_weight import StoredWeight, stored_weight
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.layers import QuantizedLayer
from medquant.models.torch_program import TorchModel
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe

pytestmark = pytest.mark.usefixtures("small_example")
CARD = {"README.md", "model.json", "example.npz"}


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
