"""Which runtime is chosen: the fastest here, never one slower than FP32, with a reason."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from timed_runtimes import FAST, SLOW, parts
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.deploy import choose as choosing
from medquant.deploy.choose import choices_folder, choose, forget_choice
from medquant.errors import Cancelled, UserError
from medquant.granularity import PerVoxel
from medquant.imaging.volume import Volume
from medquant.models.torch_program import TorchModel
from medquant.progress import Progress
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache", "an_idle_machine")


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


def test_the_choice_names_the_model(runtimes) -> None:
    runtimes(openvino={"fp32": FAST})
    assert choose(parts(), model="MedSAM")[0].model == "MedSAM"
    assert [choice.model for choice in choosing.remembered_choices()] == ["MedSAM"]


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
