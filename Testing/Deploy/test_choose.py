"""Which runtime is chosen: the fastest here, never one slower than FP32, measured once, with a reason."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from medquant import artifact
from medquant.activation_settings import IntActivations
from medquant.deploy import choose as choosing
from medquant.deploy import compiling
from medquant.deploy.choose import choices_folder, choose, forget_choice
from medquant.deploy.program import decoded_program
from medquant.deploy.runtime import RUNTIMES, Check
from medquant.embedded.phantom import make_phantom
from medquant.errors import Cancelled, UserError
from medquant.granularity import PerTensor, PerVoxel
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection, Part
from medquant.models.registry import load_model
from medquant.models.torch_program import TorchModel, from_module
from medquant.progress import Progress
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe

SLOW, FAST = 0.04, 0.0


class Waiting(nn.Module):
    """A network that takes a known time: the choice is about time alone."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.layer = nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.layer(values)


class Session:
    """Gives what the part gives, times `wrong`, after a known time."""

    device, simulated = "CPU", False

    def __init__(self, runtime: str, precision: str, seconds: float, part: Part, wrong: float) -> None:
        self.runtime, self.precision, self.seconds = runtime, precision, seconds
        with torch.inference_mode():
            module = part.module if precision == "int8" else decoded_program(part.module, integers=False)
            self.output = module(*part.inputs.values()) * wrong

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.output


class Timed:
    """A runtime that takes a known time for each precision; None: it lacks an operator."""

    def __init__(self, name: str, seconds: dict[str, float | None], version: str | None = "1.0") -> None:
        self.name, self.seconds, self.found, self.compiled = name, seconds, version, 0
        self.wrong = 1.0

    def version(self) -> str | None:
        return self.found

    def devices(self) -> list[str]:
        return ["CPU"]

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        return () if self.found is None else tuple(self.seconds)

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> Session:
        self.compiled += 1
        if self.seconds[precision] is None:
            raise UserError(f"{self.name} has no such operator. Use --runtime pytorch.")
        session = Session(self.name, precision, self.seconds[precision], part, self.wrong)
        check(session)
        return session


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run beside each other; the known times are apart enough for the better of two runs."""
    monkeypatch.setattr(choosing, "BUSY", 2.0)
    monkeypatch.setattr(compiling, "MOST_RUNS", 2)


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch):
    """Puts runtimes of known speed in the place of the real ones."""

    def put(**seconds: dict[str, float | None]) -> dict[str, Timed]:
        made = {}
        for name in ("openvino", "onnxruntime", "tensorrt"):
            made[name] = Timed(name, seconds.get(name, {}), "1.0" if name in seconds else None)
            monkeypatch.setitem(RUNTIMES, name, made[name])
        return made

    return put


def parts(seconds: float = SLOW) -> dict[str, Part]:
    return {"network": Part(Waiting(seconds), {"values": torch.zeros(1, 4)}, ("logits",))}


def test_the_fastest_is_chosen_and_its_sessions_are_handed_on(runtimes) -> None:
    runtimes(openvino={"fp32": FAST}, onnxruntime={"fp32": SLOW / 2})
    choice, sessions = choose(parts())
    assert (choice.runtime, choice.precision) == ("openvino", "fp32")
    assert sessions["network"].runtime == "openvino"
    assert set(choice.seconds) == {"pytorch auto", "openvino fp32", "onnxruntime fp32"}
    assert "openvino fp32 takes" in choice.reason and "PyTorch FP32" in choice.reason
    assert "slower than openvino" in choice.refused["onnxruntime fp32"]


def test_a_runtime_slower_than_pytorch_is_not_chosen(runtimes) -> None:
    runtimes(openvino={"fp32": 2 * SLOW})
    choice, sessions = choose(parts())
    assert choice.runtime == "pytorch" and sessions is None
    assert "slower than PyTorch FP32" in choice.reason
    assert choice.reason.count(".") >= 1 and "\n" not in choice.reason


@pytest.mark.parametrize("wrong", [1.2, float("nan")])
def test_a_runtime_that_computes_something_else_is_not_chosen(runtimes, wrong: float) -> None:
    made = runtimes(openvino={"fp32": FAST}, onnxruntime={"fp32": SLOW / 2})
    made["openvino"].wrong = wrong
    choice, sessions = choose(parts())
    assert choice.runtime == "onnxruntime" and sessions["network"].runtime == "onnxruntime"
    assert "differs from PyTorch's" in choice.refused["openvino fp32"]


def test_with_pytorch_alone_the_reason_says_so(runtimes) -> None:
    runtimes()
    choice, _ = choose(parts(FAST))
    assert choice.runtime == "pytorch"
    assert "no other runtime can take part" in choice.reason


def test_a_missing_operator_is_a_reason(runtimes) -> None:
    runtimes(openvino={"fp32": None}, onnxruntime={"fp32": FAST})
    choice, _ = choose(parts())
    assert choice.runtime == "onnxruntime"
    assert "no such operator" in choice.refused["openvino fp32"]


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


def test_the_choice_names_the_model(runtimes) -> None:
    runtimes(openvino={"fp32": FAST})
    assert choose(parts(), model="MedSAM")[0].model == "MedSAM"
    assert [choice.model for choice in choosing.remembered_choices()] == ["MedSAM"]


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


def test_a_precision_that_is_asked_for_is_kept_to(runtimes) -> None:
    runtimes(openvino={"fp32": FAST, "bf16": 2 * SLOW})
    choice, _ = choose(parts(), "bf16")
    assert choice.precision == "bf16"
    with pytest.raises(UserError, match=r"cannot be run here.*Choose"):
        choose(parts(), "fp16")


def test_once_measuring_took_long_the_rest_is_not_tried(runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "BUDGET_SECONDS", 0.0)
    made = runtimes(openvino={"fp32": SLOW / 2}, onnxruntime={"fp32": FAST}, tensorrt={"fp32": SLOW / 4})
    choice, _ = choose(parts())
    assert choice.runtime == "tensorrt"
    assert made["onnxruntime"].compiled == made["openvino"].compiled == 0
    assert "not tried" in choice.refused["onnxruntime fp32"]


def test_the_wish_to_stop_leaves_nothing(runtimes) -> None:
    made = runtimes(openvino={"fp32": FAST})
    with pytest.raises(Cancelled):
        choose(parts(), progress=Progress(None, lambda: made["openvino"].compiled > 0))
    assert not choices_folder().exists()


def test_integers_slower_than_fp32_are_not_chosen(runtimes, integer_patchwise: QuantizedModel) -> None:
    """As on a processor without instructions for them."""
    (part,) = integer_patchwise.model.parts().values()
    slow = {"network": replace(part, module=nn.Sequential(Pause(4 * SLOW), part.module))}
    runtimes(openvino={"fp32": SLOW, "int8": 3 * SLOW})
    choice, _ = choose(slow)
    assert (choice.runtime, choice.precision) == ("openvino", "fp32")
    assert "openvino int8" in choice.reason
    runtimes(openvino={"fp32": SLOW, "int8": FAST})
    assert choose(slow)[0].precision == "fp32", "remembered"
    forget_choice(slow, "auto", None)
    assert choose(slow)[0].precision == "int8"


def test_what_has_no_integer_kernel_stays_simulated(runtimes, patchwise: TorchModel, small_scan: Volume) -> None:
    recipe = Recipe(activations=IntActivations(granularity=PerVoxel(), mode="dynamic"), method="rtn")
    quantized = quantize(patchwise, small_scan, recipe=recipe)
    made = runtimes(openvino={"fp32": FAST, "int8": FAST})
    choice, sessions = choose(quantized.model.parts())
    assert choice.runtime == "pytorch" and sessions is None and made["openvino"].compiled == 0
    assert "simulated" in choice.reason


class Pause(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return values
