"""A model with integer activations: what it is called, and what the commands say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from medquant import artifact
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch
from medquant.models.sam import SamModelAdapter
from medquant.segmentation import Execution

BOX = "liver=10,10,0,40,50,3"


def test_bits_of_activations_are_in_every_name(medquant, scan: Path, small_sam: Path, small_w4a8: Path) -> None:
    ct, label = scan / "ct.nii.gz", f"{small_sam.name}-w4a8"
    made = medquant("quantize", ct, "-m", small_sam, "-a", "8", "--method", "rtn", "--slices", "1", "--json", "-")
    assert json.loads(made.stdout)["output"] == f"{label}.mq.safetensors"
    assert json.loads(made.stdout)["model"] == f"{small_sam.name} W4A8"
    found = medquant("segment", ct, "-m", small_w4a8, "--box", BOX, "--runtime", "pytorch", "--json", "-")
    assert json.loads(found.stdout)["model"] == f"{small_sam.name} W4A8"
    assert json.loads(found.stdout)["output"] == f"ct-{label}.seg.nrrd"
    exported = medquant("export", small_w4a8, "--format", "artifact")
    assert exported.exit_code == 0, exported.output
    assert Path(f"{label}-artifact").is_dir()
    assert "--storage packed" not in exported.stdout


def test_an_export_tells_that_it_widens_weights(medquant, small_w4a8: Path) -> None:
    widened = medquant("export", small_w4a8, "--format", "openvino")
    assert widened.exit_code == 0, widened.output
    assert "Weights of 4 bits are stored as int8" in widened.stdout and "--storage packed" in widened.stdout
    packed = medquant("export", small_w4a8, "--format", "openvino", "--storage", "packed", "--overwrite")
    assert packed.exit_code == 0, packed.output
    assert "--storage packed" not in packed.stdout


def test_an_export_for_any_processor_has_weights_of_seven_bits(medquant, small_w4a8: Path) -> None:
    rounded = medquant("export", small_w4a8, "--format", "openvino", "--any-processor")
    assert rounded.exit_code == 0, rounded.output
    assert "rounded once more, to 7 bits" in rounded.stdout
    whole = medquant("export", small_w4a8, "--format", "openvino", "--no-any-processor", "--overwrite")
    assert "--any-processor (7 bits)" in whole.stdout and "rounded once more" not in whole.stdout


def test_a_few_layers_in_floating_point_are_counted_not_called_simulated(
    medquant, scan: Path, small_w4a8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM's mask decoder has two transposed convolutions that OpenVINO computes in floating point.

    An untrained network makes much of little: how near the runtime comes to the engine is not looked at here.
    """
    monkeypatch.setattr("medquant.deploy.agreement.Reference.check", lambda *_: True)
    found = medquant("segment", scan / "ct.nii.gz", "-m", small_w4a8, "--box", BOX, "--runtime", "openvino",
                     "--json", "numbers.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    data = json.loads(Path("numbers.json").read_text())
    assert data["simulated"] is False and 2 <= data["floating_layers"] < data["layers"] / 4
    told = f"openvino int8 on CPU, {data['floating_layers']} of {data['layers']} layers in floating point"
    assert f"Computed by {told}." in found.stdout


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_rounding_is_simulated_by_pytorch_in_either_way(medquant, scan, small_w4a8: Path, precision: str) -> None:
    found = medquant("segment", scan / "ct.nii.gz", "-m", small_w4a8, "--box", BOX, "--runtime", "pytorch",
                     "--precision", precision)  # fmt: skip
    assert "Computed by pytorch int8 on CPU, simulated." in found.stdout


def test_what_computed_in_words() -> None:
    assert Execution().describe() == "pytorch fp32 on CPU"
    assert Execution("openvino", precision="int8", simulated=False).describe().endswith(", integer kernels")
    some = Execution("openvino", precision="int8", simulated=False, layers=96, floating_layers=3)
    assert some.describe() == "openvino int8 on CPU, 3 of 96 layers in floating point"
    most = Execution("onnxruntime", precision="int8", simulated=True, layers=79, floating_layers=76)
    assert most.describe() == "onnxruntime int8 on CPU, simulated"


def test_inputs_that_matter_stay_in_floating_point(
    medquant, scan: Path, small_sam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[Volume] = []
    calibration_batches = SamModelAdapter.calibration_batches

    def counted(model: SamModelAdapter, volume: Volume, *rest: object) -> Iterator[CalibrationBatch]:
        cut.append(volume)
        return calibration_batches(model, volume, *rest)

    monkeypatch.setattr(SamModelAdapter, "calibration_batches", counted)
    asked = (
        "quantize",
        scan / "ct.nii.gz",
        "-m",
        small_sam,
        "--method",
        "rtn",
        "--slices",
        "2",
        "--float-share",
        "0.3",
    )
    refused = medquant(*asked)
    assert refused.exit_code == 2 and "bits of activations" in refused.output
    for share in ("0", "1", "-0.5", "1.5"):
        refused = medquant(*asked[:-1], share, "-a", "8")
        assert refused.exit_code == 2 and "between 0 and 1" in refused.output
    assert not cut, "what cannot be is told before the scan is prepared"
    made = medquant(*asked, "-a", "8", "--json", "numbers.json")
    assert made.exit_code == 0, made.output
    numbers = json.loads(Path("numbers.json").read_text())
    assert len(cut) == 1, "one scan, prepared once"
    seconds = numbers["seconds"]
    assert seconds["choice of float inputs"] > 0
    assert seconds["total"] >= seconds["choice of float inputs"] + seconds["calibration inputs"]
    assert artifact.load(numbers["output"]).provenance.calibration_sha256 == (cut[0].content_hash(),)
    left = numbers["recipe"]["float_inputs"]
    assert left and f"{len(left)} inputs in floating point" in made.output.replace("\n", " ")
