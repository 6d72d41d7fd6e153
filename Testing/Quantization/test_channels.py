"""Channels that training switched off: found, left out, and nothing lost by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from medquant import artifact
from medquant.channels import Live, channel_variances, live_channels
from medquant.layers import QuantizedLayer
from medquant.matrices import Layout
from medquant.models.torch_program import from_module
from medquant.quantized_model import QuantizedModel

Quantized = Callable[..., QuantizedModel]
LAYERS = [
    (nn.Linear(6, 5), (4, 30, 6), torch.tensor([1, 4])),
    (nn.Conv2d(6, 5, 3, padding=1), (1, 6, 12, 12), torch.tensor([0, 5])),
    (nn.ConvTranspose2d(6, 5, 2, 2), (1, 6, 12, 12), torch.tensor([2])),
]
IDS = ["linear", "convolution", "transposed"]


def inputs_first(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A view of the weight with its input channels along the first axis."""
    return weight if isinstance(module, nn.ConvTranspose2d) else weight.transpose(0, 1)


@pytest.mark.parametrize(("module", "shape", "dead"), LAYERS, ids=IDS)
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_faint_inputs_are_found(
    module: nn.Module, shape: tuple[int, ...], dead: torch.Tensor, folded: bool, bits: int
) -> None:
    torch.manual_seed(0)
    weight, layout, x = torch.randn_like(module.weight), Layout.of(module), torch.randn(shape)
    variances = channel_variances(module, x)
    assert live_channels(weight, layout, variances, bits, folded=folded) == Live()
    inputs_first(module, weight)[dead] *= 1e-6
    live = live_channels(weight, layout, variances, bits, folded=folded)
    assert torch.nonzero(~live.inputs)[:, 0].tolist() == dead.tolist() and live.outputs is None
    assert live.share() == pytest.approx(1 - len(dead) / 6)
    # Faint weights on inputs so strong that they matter are kept.
    loud = variances.clone()
    loud[dead] *= 1e12
    assert live_channels(weight, layout, loud, bits, folded=folded).inputs is None


@pytest.mark.parametrize(("module", "shape", "_dead"), LAYERS, ids=IDS)
def test_faint_outputs_are_left_out_only_where_no_norm_can_raise_them(
    module: nn.Module, shape: tuple[int, ...], _dead: torch.Tensor
) -> None:
    torch.manual_seed(0)
    weight, layout = torch.randn_like(module.weight), Layout.of(module)
    outputs = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
    outputs[3] *= 1e-6
    variances = channel_variances(module, torch.randn(shape))
    assert live_channels(weight, layout, variances, 4, folded=True).outputs.tolist() == [True] * 3 + [False, True]
    assert live_channels(weight, layout, variances, 4, folded=False) == Live()


def test_variances_are_covariances_within_each_channel() -> None:
    module, x = nn.Conv1d(2, 3, 2), torch.randn(1, 2, 400)
    found = channel_variances(module, x)
    windows = x[0].unfold(1, 2, 1)
    for channel in range(2):
        torch.testing.assert_close(found[channel], torch.cov(windows[channel].T, correction=0))


def test_rows_and_columns_of_live_channels() -> None:
    live = Live(torch.tensor([True, False]), torch.tensor([False, True, True]))
    assert live.rows(Layout((3, 2, 2), 1, False)).tolist() == [0, 1]
    assert live.columns(Layout((3, 2, 2), 1, False)).tolist() == [1, 2]
    assert live.rows(Layout((2, 3, 2), 1, True)).tolist() == [0]
    assert live.columns(Layout((2, 3, 2), 1, True)).tolist() == [2, 3, 4, 5]
    assert Live().rows(Layout((6, 1, 3), 6, False)).tolist() == [0, 1, 2]
    assert Live().columns(Layout((6, 1, 3), 6, False)).tolist() == [0]


def test_a_network_with_channels_switched_off(tmp_path: Path, quantized: Quantized) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        conv = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 3, 2, 2)
        layers = conv[0], nn.BatchNorm2d(16), nn.ReLU(), conv[1], nn.BatchNorm2d(16), nn.ReLU(), conv[2]
        with torch.no_grad():
            for faint in (conv[0].weight[:4], conv[1].weight[:, :4], conv[1].weight[6:9], conv[2].weight[6:9]):
                faint.mul_(1e-7)
            layers[1].weight[:4] = layers[4].weight[6:9] = 1e-7
        return nn.Sequential(*layers).eval()

    network, inputs = make(), [torch.randn(1, 1, 20, 20)]
    settings = {"ends_bits": None, "extra_bits": 0.0}
    result = quantized(network, inputs, 8, settings=settings)
    middle = result.model.network[3]
    assert isinstance(middle, QuantizedLayer) and middle.matrix_shape == (1, 12 * 9, 13)
    with torch.inference_mode():
        found, expected = (n(inputs[0]) for n in (result.model.network, network))
    assert (found - expected).norm() < 0.02 * expected.norm()
    whole = quantized(network, inputs, 8, settings={**settings, "drop_dead_channels": False})
    assert whole.model.network[3].matrix_shape == (1, 16 * 9, 16)
    assert result.report.effective_bits < whole.report.effective_bits
    result.save(tmp_path / "a.mq.safetensors")
    after = artifact.load(tmp_path / "a.mq.safetensors", model=from_module(make(), name="small"))
    with torch.inference_mode():
        assert torch.equal(after.model.network(inputs[0]), found)
