"""Upsampling and the convolution after it in one step: the same function, fewer products, still on integers."""

from __future__ import annotations

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from medquant.activation_settings import IntActivations
from medquant.deploy.int8_codes import nearest_int8
from medquant.deploy.openvino_program import openvino_model
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.openvino_upsampling import LEAST, merge_upsampling, merged_weight
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

SIZE = (24, 24, 24)


class Decoder(nn.Module):
    """Down, up again by a transposed convolution with a bias that matters, and a convolution of both."""

    def __init__(self, *, bias: float = 3.0, skip_first: bool = False) -> None:
        super().__init__()
        self.skip_first = skip_first
        self.enter = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(0.01))
        self.down = nn.Sequential(nn.Conv3d(8, 16, 3, 2, 1), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU(0.01))
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        nn.init.constant_(self.up.bias, bias)
        self.join = nn.Sequential(nn.Conv3d(16, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(0.01))
        self.head = nn.Conv3d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.enter(x)
        parts = (self.up(self.down(skip)), skip)
        return self.head(self.join(torch.cat(parts[::-1] if self.skip_first else parts, 1)))


def quantized(
    network: nn.Module, size: tuple[int, ...] = SIZE, bits: int = 8, symmetric: bool = False
) -> QuantizedModel:
    generator = torch.Generator().manual_seed(2)
    inputs = [CalibrationBatch((torch.randn(1, 1, *size, generator=generator),)) for _ in range(2)]
    model = from_module(network.eval(), name="small", roi_size=size)
    recipe = Recipe(
        weights=IntWeights(bits),
        activations=IntActivations(8, symmetric=symmetric),
        method="rtn",
        calibration=CalibrationSettings(sequential=False),
    )
    return quantize(model, inputs, recipe=recipe)


def kinds(model: openvino.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def answer(model: openvino.Model, x: torch.Tensor) -> np.ndarray:
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x.numpy()])[0].copy()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_one_transposed_convolution_does_what_two_layers_do(
    coarse: int, channels: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    transposed = torch.randn(coarse, channels, 2, 2, 2, generator=generator)
    convolution = torch.randn(outputs, channels, 3, 3, 3, generator=generator)
    values = torch.randn(1, coarse, 3, 4, 5, generator=generator)
    expected = functional.conv3d(functional.conv_transpose3d(values, transposed, stride=2), convolution, padding=1)
    merged = torch.from_numpy(merged_weight(convolution.numpy(), transposed.numpy()))
    found = functional.conv_transpose3d(values, merged, stride=2, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("skip_first", [False, True])
@pytest.mark.parametrize(("bits", "bias"), [(8, 0.3), (8, 3.0), (4, 3.0)])
def test_the_function_stays_up_to_the_edge(skip_first: bool, bits: int, bias: float) -> None:
    """Reaching over the edge, the bias would change the outermost voxels."""
    torch.manual_seed(3)
    found = quantized(Decoder(skip_first=skip_first, bias=bias), bits=bits)
    part = found.model.parts()["network"]
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(5))
    exact = answer(openvino_model(part, integers=False), x)
    model = openvino_model(part)
    plain, before = answer(model, x), kinds(model)
    merge_upsampling(model, 127)
    merged, after = answer(model, x), kinds(model)
    assert (before.count("Concat"), before.count("Convolution"), before.count("ConvolutionBackpropData")) == (1, 4, 1)
    assert (after.count("Convolution"), after.count("ConvolutionBackpropData")) == (4, 1)
    (rising,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "ConvolutionBackpropData")
    coarse, *rest = rising.input_value(1).get_shape()
    assert (coarse == 17) == (bias < 1) and coarse <= 32 and rest == [8, 4, 4, 4]
    edge = np.ones(SIZE, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    for where in (edge, ~edge):
        error, usual = (np.abs(one - exact)[..., where].mean() for one in (merged, plain))
        assert error < 1.1 * usual, "what is rounded anyway explains what differs"


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_is_compiled_is_merged_and_runs_on_integers(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    part = quantized(Decoder(), symmetric=symmetric).model.parts()["network"]
    merged = OpenVino().compile(part, precision="int8", threads=1)
    monkeypatch.setattr("medquant.deploy.openvino_upsampling.LEAST", 10**9)
    plain = OpenVino().compile(part, precision="int8", threads=1)
    for session in (merged, plain):
        assert not session.simulated
        assert session.integer_layers == session.layers == 5
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(5))
    apart = float((merged(x) - plain(x)).norm() / plain(x).norm())
    assert 0 < apart < 0.1, "another computation of the same function"


def test_the_part_that_is_not_upsampled_keeps_its_codes() -> None:
    torch.manual_seed(3)
    found = quantized(Decoder(skip_first=True), bits=4)
    model = openvino_model(found.model.parts()["network"])
    merge_upsampling(model, 127)
    codes, _ = nearest_int8(found.model.network.join[0], 127)
    shapes = [(8, 8, 3, 3, 3)]
    (kept,) = (
        node.data
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.data.dtype == np.int8 and node.data.shape in shapes
    )
    np.testing.assert_array_equal(kept, codes[:, :8].numpy())


def test_seven_bits_and_two_images() -> None:
    torch.manual_seed(3)
    part = quantized(Decoder()).model.parts()["network"]
    model = openvino_model(part)
    model.reshape([2, 1, *SIZE])
    x = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(5))
    plain = answer(model, x)
    merge_upsampling(model, 63)
    merged = answer(model, x)
    assert np.linalg.norm(merged - plain) < 0.1 * np.linalg.norm(plain)


def test_two_decoders_are_both_merged() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Decoder(), Decoder(skip_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) + self.other(x)

    torch.manual_seed(3)
    model = openvino_model(quantized(Two()).model.parts()["network"])
    merge_upsampling(model, 127)
    rising = [n.input_value(1).get_shape() for n in model.get_ordered_ops() if "Backprop" in n.get_type_name()]
    assert [list(shape)[2:] for shape in rising] == [[4, 4, 4]] * 2


def test_what_something_else_reads_stays() -> None:
    class Watched(Decoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = self.enter(x)
            joined = torch.cat((self.up(self.down(skip)), skip), 1)
            return self.head(self.join(joined)) + joined[:, :3]

    torch.manual_seed(3)
    model = openvino_model(quantized(Watched()).model.parts()["network"])
    before = kinds(model)
    merge_upsampling(model, 127)
    assert kinds(model) == before


def test_small_grids_and_floating_point_stay() -> None:
    torch.manual_seed(3)
    small = quantized(Decoder(), size=(12, 16, 16))
    assert LEAST > 12 * 16 * 16
    model = openvino_model(small.model.parts()["network"])
    before = kinds(model)
    merge_upsampling(model, 127)
    assert kinds(model) == before
    model = openvino_model(quantized(Decoder()).model.parts()["network"], integers=False)
    before = kinds(model)
    merge_upsampling(model, 127)
    assert kinds(model) == before


def test_what_something_bends_between_stays() -> None:
    class Bent(Decoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = self.enter(x)
            return self.head(self.join(torch.cat((torch.relu(self.up(self.down(skip))), skip), 1)))

    torch.manual_seed(3)
    model = openvino_model(quantized(Bent()).model.parts()["network"])
    before = kinds(model)
    merge_upsampling(model, 127)
    assert kinds(model) == before
