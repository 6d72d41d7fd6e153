"""What a choice of a runtime is remembered for, how long, and which models share it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timed_runtimes import FAST, SLOW, Waiting, parts
from torch import nn

from medquant import artifact
from medquant.activation_settings import IntActivations
from medquant.deploy import choose as choosing
from medquant.deploy.choose import choices_folder, choose, forget_choice
from medquant.deploy.runtime import RUNTIMES
from medquant.embedded.phantom import make_phantom
from medquant.granularity import PerTensor
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection, Part
from medquant.models.registry import load_model
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe

pytestmark = pytest.mark.usefixtures("own_cache", "an_idle_machine")


def test_what_was_measured_once_is_remembered(runtimes, own_cache: Path) -> None:
    made = runtimes(openvino={"fp32": FAST})
    first, _ = choose(parts())
    again, sessions = choose(parts())
    assert again == first and sessions is None
    assert made["openvino"].compiled == 1
    assert len(list(choices_folder().iterdir())) == 1, "no temporary file stays"
    forget_choice(parts(), "auto", None)
    choose(parts())
    assert made["openvino"].compiled == 2


def test_what_was_measured_beside_other_programs_holds_for_an_hour(runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "BUSY", 0.0)
    made = runtimes(openvino={"fp32": FAST})
    assert "beside other programs, so it is measured again in an hour" in choose(parts())[0].reason
    choose(parts())
    assert made["openvino"].compiled == 1
    hour = time.time() + choosing.DOUBTED_SECONDS
    monkeypatch.setattr(time, "time", lambda: hour + 1)
    choose(parts())
    assert made["openvino"].compiled == 2


def test_what_was_measured_with_little_memory_holds_for_an_hour(runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runtimes(openvino={"fp32": FAST})
    monkeypatch.setattr(made["openvino"], "compile", lambda *_, **__: (_ for _ in ()).throw(MemoryError("compiling")))
    choice, _ = choose(parts())
    assert choice.runtime == "pytorch" and "with little memory left" in choice.reason and choice.until is not None


def test_where_nothing_is_rounded_the_network_without_rounding_is_the_measure(
    small_scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 4 bits the rounded network is far from the other; either is right in its precision."""
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 3, 3, padding=1))
    model = from_module(network, name="n", roi_size=(16, 16, 16))
    recipe = Recipe(activations=IntActivations(2, dither=False), method="rtn")
    found = quantize(model, small_scan, recipe=recipe, selection=CalibrationSelection(1)).model.parts()
    monkeypatch.setattr(choosing, "_ORDER", ("openvino",))
    for precision in ("fp32", "bf16"):
        if precision in RUNTIMES["openvino"].precisions():
            choice, _ = choose(found, precision)
            assert choice.precision == precision and "openvino" in " ".join(choice.seconds)
    choice, _ = choose(found, "int8")
    assert {"pytorch int8", "openvino int8"} <= set(choice.seconds), choice.refused


SHARING = {
    "8-bit": Recipe(method="rtn"),
    "2-bit": Recipe(weights=IntWeights(bits=2), method="rtn"),
    "mixed": Recipe(method="rtn", overrides={"0": IntWeights(bits=3), "6": None}),
    "one-scale": Recipe(weights=IntWeights(granularity=PerTensor(), symmetric=True), method="rtn"),
}


@pytest.mark.parametrize("recipe", SHARING.values(), ids=SHARING)
@pytest.mark.parametrize("first", ["fp32", "quantized"])
def test_light_weights_run_where_fp32_does_whichever_is_measured_first(
    small_scan: Volume, tmp_path: Path, recipe: Recipe, first: str
) -> None:
    """With the runtimes that are installed: noise between two measurements must not make one model look slower.

    Quantizing folds the batch norm, and gives the layer before it a bias.
    """
    torch.manual_seed(0)
    normed = [nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU()]
    normed += [nn.Conv3d(8, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.ReLU(), nn.Conv3d(8, 3, 1)]
    model = from_module(nn.Sequential(*normed), name="normed", roi_size=(4, 16, 16))
    made = quantize(model, small_scan, recipe=recipe, selection=CalibrationSelection(1))
    artifact.save(made, tmp_path / "made.mq.safetensors")
    opened = artifact.load(tmp_path / "made.mq.safetensors", model=model)
    networks = [model.parts(), made.model.parts(), opened.model.parts()]
    before, *after = networks if first == "fp32" else reversed(networks)
    choice, _ = choose(before, threads=1)
    for network in after:
        assert choose(network, threads=1) == (choice, None), "nothing was measured anew"
    assert len(list(choices_folder().iterdir())) == 1


def test_integers_and_other_shapes_have_a_choice_of_their_own(
    runtimes, patchwise: TorchModel, light_patchwise: QuantizedModel, integer_patchwise: QuantizedModel
) -> None:
    made = runtimes(openvino={"fp32": FAST, "int8": FAST})
    choose(patchwise.parts())
    choose(integer_patchwise.model.parts())
    assert made["openvino"].compiled > 1
    before = len(list(choices_folder().iterdir()))
    assert before == 2
    (part,) = light_patchwise.model.parts().values()
    choose({"network": replace(part, module=nn.Sequential(part.module, nn.Conv3d(3, 3, 1)))})
    assert len(list(choices_folder().iterdir())) == 3


def test_the_embedded_network_quantized_shares_the_choice_of_each_of_its_parts(runtimes) -> None:
    """Convolutions, norms, linear layers and attention: what is decoded has the shapes of the original."""
    made = runtimes(openvino={"fp32": FAST})
    model = load_model("embedded", device="cpu")
    array, _, _, affine = make_phantom(0, (3, 96, 96), (16.0, 4.0, 4.0))
    scan = Volume(array, affine, name="ct", modality="CT")
    choice, _ = choose(model.parts())
    light = quantize(model, scan, recipe=Recipe(method="rtn"), selection=CalibrationSelection(1))
    compiled = made["openvino"].compiled
    assert choose(light.model.parts())[0] == choice and made["openvino"].compiled == compiled


def test_another_model_version_or_precision_is_measured_anew(runtimes) -> None:
    made = runtimes(openvino={"fp32": FAST, "bf16": FAST})
    choose(parts())
    wider = {"network": Part(Waiting(SLOW), {"values": torch.zeros(3, 4)}, ("logits",))}
    choose(wider)
    assert made["openvino"].compiled == 2
    choose(parts(), "bf16")
    assert made["openvino"].compiled == 3
    made["openvino"].found = "2.0"
    choose(parts())
    assert made["openvino"].compiled == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"runtime": "abacus"}', b"\xff\xfe", b'{"unknown": 1}'])
def test_a_corrupt_memory_is_ignored(runtimes, content: bytes) -> None:
    runtimes(openvino={"fp32": FAST})
    first, _ = choose(parts())
    (file,) = choices_folder().iterdir()
    file.write_bytes(content)
    again, sessions = choose(parts())
    assert again.runtime == first.runtime and sessions is not None
    assert json.loads(file.read_text())["runtime"] == "openvino"


def test_a_folder_that_cannot_be_written_costs_the_memory_only(runtimes, own_cache: Path) -> None:
    own_cache.write_text("a file stands where the folder should be")
    runtimes(openvino={"fp32": FAST})
    assert choose(parts())[0].runtime == "openvino"
