"""Inputs that cannot work, and stopping at any moment: a message to act on, and nothing left behind."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from medquant.errors import Cancelled, UserError
from medquant.imaging.volume import Volume
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationBatch, CalibrationSelection
from medquant.models.torch_program import from_module
from medquant.progress import ProgressEvent
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

MakeNetwork = Callable[..., nn.Module]
MakePictures = Callable[..., list[torch.Tensor]]
Quantized = Callable[..., QuantizedModel]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def whole(network: nn.Module) -> bool:
    return not any(
        "forward" in m.__dict__ or m._forward_hooks or isinstance(m, QuantizedLayer) for m in network.modules()
    )


def says_what_to_do(error: pytest.ExceptionInfo[UserError]) -> bool:
    """Two sentences at least: what is wrong, and what to do."""
    return len(re.findall(r"[.!?](?=\s|$)", str(error.value))) >= 2


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("down.0.weight", torch.nan),
        ("enter.0.weight", torch.inf),
        ("head.bias", torch.nan),
        ("up.bias", -torch.inf),
        ("down.1.running_var", torch.nan),
        ("out.1.weight", torch.inf),
    ],
)
def test_weights_that_are_no_numbers(
    name: str, bad: float, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    network = small_unet()
    tensor = dict((*network.named_parameters(), *network.named_buffers()))[name]
    with torch.no_grad():
        tensor.view(-1)[0] = bad
    for fold in (True, False):
        with pytest.raises(UserError) as error:
            quantized(network, pictures(), settings={"fold_batch_norm": fold})
        assert says_what_to_do(error)
    assert whole(network)


@pytest.mark.parametrize("method", ["permutation-comq", "rtn"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_calibration_inputs_that_are_no_numbers(
    bad: float, method: str, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    for which in (0, 1):
        inputs = pictures()
        inputs[which][0, 0, 3, 4] = bad
        for sequential in (True, False):
            settings = {"calibration": CalibrationSettings(sequential=sequential), "method": method}
            with pytest.raises(UserError) as error:
                quantized(small_unet(), inputs, settings=settings)
            assert says_what_to_do(error)


def test_nothing_to_calibrate_with(small_unet: MakeNetwork) -> None:
    for nothing in ([], ()):
        with pytest.raises(UserError, match="nothing to calibrate") as error:
            quantize(from_module(small_unet(), name="small"), nothing)
        assert says_what_to_do(error)


@pytest.mark.parametrize("fill", [0.0, 1.0, -1000.0])
@pytest.mark.parametrize("sequential", [True, False])
def test_constant_pictures_give_a_sane_model(
    fill: float, sequential: bool, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    network, inputs = small_unet(), [torch.full((1, 1, 24, 24), fill)] * 2
    settings = {"calibration": CalibrationSettings(sequential=sequential)}
    result = quantized(network, inputs, 8, settings=settings)
    with torch.inference_mode():
        for x in inputs + pictures():
            assert torch.isfinite(result.model.network(x)).all()
        found, expected = (n(inputs[0]) for n in (result.model.network, network))
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_a_constant_scan_and_a_scan_with_holes() -> None:
    model = from_module(nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv3d(2, 2, 1)), name="mine")
    for array in (np.full((8, 8, 8), 40, np.int16), np.full((8, 8, 8), np.nan, np.float32)):
        with pytest.raises(UserError) as error:
            quantize(model, Volume(array, np.eye(4)), selection=CalibrationSelection(count=2))
        assert says_what_to_do(error)


def test_no_layer_left(small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized) -> None:
    with pytest.raises(UserError, match="No layer is left") as error:
        quantized(small_unet(), pictures(), ignore=("*",))
    assert says_what_to_do(error)
    with pytest.raises(UserError, match="No layer is left"):
        quantized(nn.Sequential(nn.ReLU()), pictures())


def test_too_little_memory(small_unet: MakeNetwork, pictures: MakePictures) -> None:
    model = from_module(small_unet(), name="small")
    batches = [CalibrationBatch((x,)) for x in pictures(2, size=512)]
    with pytest.raises(UserError, match="MB are allowed") as error:
        quantize(model, batches, max_memory_mb=0.001)
    assert says_what_to_do(error)


def test_a_network_of_another_input_says_so(small_unet: MakeNetwork, quantized: Quantized) -> None:
    with pytest.raises(UserError, match="channels") as error:
        quantized(small_unet(), [torch.randn(1, 3, 24, 24)])
    assert says_what_to_do(error)


@pytest.mark.parametrize("sequential", [True, False])
def test_cancel_at_any_moment(
    sequential: bool, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    network, inputs = small_unet(), pictures()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = {"calibration": CalibrationSettings(sequential=sequential)}
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    threads = set(threading.enumerate())
    quantized(network, inputs, settings=settings, cancelled=count)
    checks = asked
    assert checks > 3 * 7, "checked several times for each layer"
    for stop_at in sorted({1, 2, 3, 4, 5, 8, checks // 3, checks // 2, checks - 1, checks}):
        asked = 0

        def cancelled(stop_at: int = stop_at) -> bool:
            nonlocal asked
            asked += 1
            return asked >= stop_at

        with pytest.raises(Cancelled):
            quantized(network, inputs, settings=settings, cancelled=cancelled)
        assert asked <= stop_at + len(inputs) * 2, "the wish is heard at once"
        assert set(threading.enumerate()) <= threads
    assert whole(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_an_error_of_the_network_comes_through(pictures: MakePictures, quantized: Quantized) -> None:
    class Failing(nn.Module):
        def __init__(self, passes: int) -> None:
            super().__init__()
            self.first, self.last, self.left = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), passes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            self.left -= 1
            if self.left < 0:
                raise ArithmeticError("out of passes")
            return self.last(x)

    for passes in range(6):
        network = Failing(passes)
        with pytest.raises(ArithmeticError, match="out of passes"):
            quantized(network, pictures(4))
        assert whole(network)


def test_layers_in_another_order_for_another_input(quantized: Quantized) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(self.b(x)) if float(x.sum()) > 0 else self.b(self.a(x))

    network = Branching()
    with pytest.raises(UserError, match="same order") as error:
        quantized(network, [torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)])
    assert says_what_to_do(error) and whole(network)


def test_progress_rises_to_the_end_with_words(
    small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    events: list[ProgressEvent] = []
    quantized(small_unet(), pictures(), progress=events.append)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    assert "Quantizing layer 1 of 6" in {event.message for event in events}


def test_a_callback_that_fails_ends_the_work(
    small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    def fail(event: ProgressEvent) -> None:
        if event.fraction > 0.3:
            raise OSError("the window is gone")

    network = small_unet()
    with pytest.raises(OSError, match="window"):
        quantized(network, pictures(), progress=fail)
    assert whole(network)


def test_recipes_that_cannot_be(small_unet: MakeNetwork) -> None:
    for wrong in ({"bits": 1}, {"bits": 9}, {"bits": 4.0}, {"zero_point": "float"}):
        with pytest.raises(UserError) as error:
            Recipe(weights=IntWeights(**wrong))
        assert says_what_to_do(error)


@pytest.mark.parametrize("method", ["rtn", "permutation-comq", "gptq"])
def test_activations_that_all_but_vanish(method: str, pictures: MakePictures, quantized: Quantized) -> None:
    """A network as freshly initialised, whose features hardly vary: nothing to fit to, and no reason to fail."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        network[0].weight.mul_(1e-10)
        network[1].weight.mul_(1e-10)
    result = quantized(network, pictures(), 8, settings={"method": method})
    with torch.inference_mode():
        torch.testing.assert_close(result.model.network(pictures()[0]), network(pictures()[0]), rtol=0.05, atol=0.01)


def test_fewer_inputs_where_not_all_fit() -> None:
    """Two tensors of 38 MB in each pass, two passes of each input under way at once."""
    model = from_module(nn.Sequential(nn.Conv2d(1, 64, 1), nn.ReLU(), nn.Conv2d(64, 1, 1)), name="wide")
    batches = [CalibrationBatch((torch.randn(1, 1, 384, 384),)) for _ in range(4)]
    used = [quantize(model, batches, max_memory_mb=limit).report.calibration_inputs for limit in (350, 5000)]
    assert 1 <= used[0] < used[1] == 4


def test_a_quantized_network_is_an_ordinary_one(
    small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    """No tensor in it is bound to inference mode: it can be copied, loaded into and run with gradients around it."""
    network = quantized(small_unet(), pictures()).model.network
    assert not any(tensor.is_inference() for tensor in network.state_dict().values())
    copy.deepcopy(network).load_state_dict(network.state_dict())
    x = pictures()[0].requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
