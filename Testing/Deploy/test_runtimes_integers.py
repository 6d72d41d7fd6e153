"""Every runtime installed here computes what the engine's own quantized network does, and says how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest
import torch
from runtime_parts import INSTALLED, ON_INTEGERS, UNet, compiled, part_of, relative
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.attention_products import attention_modules
from medquant.deploy.export.int8_weights import notes_on_int8, within_seven_bits
from medquant.deploy.int8_codes import LARGEST_CODE_WITHOUT_VNNI
from medquant.deploy.machine import features
from medquant.deploy.onnxruntime_runtime import _on_integers
from medquant.deploy.openvino_program import openvino_model
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.program import integer_layers
from medquant.deploy.pytorch_runtime import PyTorch
from medquant.deploy.runtime import RUNTIMES
from medquant.granularity import PerGroup
from medquant.models.base import CalibrationBatch, Part
from medquant.models.registry import load_model
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe
from medquant.segment import execution_of


@pytest.mark.parametrize("name", INSTALLED)
def test_int8_agrees_with_the_engines_own_network(name: str, unet: QuantizedModel, image: torch.Tensor) -> None:
    """Sums of integers are exact; where a sum in floating point falls on the other side of a half, one input of the
    next layer moves by one level."""
    network = unet.model.network
    session = compiled(name, part_of(network, image), "int8")
    with torch.no_grad():
        expected = network(image)
    found = session(image)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert relative(found, expected) < 5e-3
    assert float((found.argmax(1) != expected.argmax(1)).float().mean()) < 5e-3
    assert (session.runtime, session.precision) == (name, "int8")


def test_openvino_runs_every_layer_on_integers(unet: QuantizedModel, image: torch.Tensor) -> None:
    session = OpenVino().compile(part_of(unet.model.network, image), precision="int8", threads=1)
    wanted = len(integer_layers(unet.model.network))
    if "INT8" not in _capabilities() or "VNNI" not in features():
        pytest.skip("this processor has no integer kernels for these layers")
    assert session.quantized_layers == wanted == 5
    assert session.integer_layers == wanted and not session.simulated


@pytest.mark.parametrize("method", ["rtn", "permutation-comq"])
def test_openvino_decodes_grouped_weights_by_itself(method: str) -> None:
    """The compiled graph holds codes, groups that a permutation gathered included, and multiplies with them."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(128, 192), nn.GELU(), nn.Linear(192, 64))
    values = torch.randn(1, 40, 128)
    recipe = Recipe(weights=IntWeights(4, granularity=PerGroup(64)), method=method, drop_dead_channels=False)
    model = from_module(network, name="two layers", roi_size=(40, 128))
    quantized = quantize(model, [CalibrationBatch((values,))], recipe=recipe).model.network
    program = openvino_model(Part(quantized, {"values": values}, ("output",)), integers=False)
    compiled_model = openvino.Core().compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        assert relative(torch.from_numpy(compiled_model([values.numpy()])[0]), quantized(values)) < 1e-5
    held = [
        tuple(node.output(0).get_shape())
        for node in compiled_model.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Const"
        and node.get_rt_info()["outputPrecisions"].astype(str) in ("u8", "i8", "u4", "i4")
    ]
    assert sorted(held) == [(64, 192), (192, 128)]


def _capabilities() -> list[str]:
    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_pytorch_says_that_it_simulates(unet: QuantizedModel, image: torch.Tensor) -> None:
    assert PyTorch().compile(part_of(unet.model.network, image), precision="int8").simulated


@pytest.fixture(scope="module")
def w4a8_unet(image: torch.Tensor) -> tuple[nn.Module, nn.Module]:
    """The network with weights of 4 bits, and as it was."""
    torch.manual_seed(0)
    model = from_module(UNet(), name="unet", roi_size=(16, 16, 16))
    activations = IntActivations(symmetric=True, observer="min-max")
    recipe = Recipe(weights=IntWeights(4), activations=activations, method="rtn")
    return quantize(model, [CalibrationBatch((image,))], recipe=recipe).model.network, model.network


@pytest.mark.parametrize("name", INSTALLED)
def test_two_to_four_bits_run_on_the_same_kernels(name: str, image: torch.Tensor, w4a8_unet: tuple) -> None:
    network, original = w4a8_unet
    session = compiled(name, part_of(network, image), "int8")
    with torch.no_grad():
        expected, floating = network(image), original(image)
    moved = relative(session(image), expected)  # an offset that is no code moves weights by 1/254 of the largest
    assert moved < 0.5 * relative(floating, expected)


@pytest.fixture(scope="module")
def light(image: torch.Tensor) -> nn.Module:
    """A network with weights of 4 bits only."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 4))
    recipe = Recipe(weights=IntWeights(4), method="rtn")
    return quantize(from_module(network, name="n"), [CalibrationBatch((image,))], recipe=recipe).model.network


@pytest.mark.parametrize("name", INSTALLED)
def test_weights_only_run_in_floating_point(name: str, image: torch.Tensor, light: nn.Module) -> None:
    session = compiled(name, part_of(light, image), "int8")
    with torch.no_grad():
        assert relative(session(image), light(image)) < 1e-4
    assert not session.simulated


@pytest.fixture(scope="module")
def embedded() -> Iterator[tuple[QuantizedModel, tuple[torch.Tensor, ...]]]:
    """The embedded promptable model, W8A8."""
    model = load_model("embedded", device="cpu")
    size = model.preprocessing.image_size
    torch.manual_seed(0)
    pixels = nn.functional.interpolate(torch.randn(1, 3, 16, 16), size=(size, size), mode="bilinear").contiguous()
    boxes = torch.tensor([[[10.0, 10.0, 90.0, 80.0], [30.0, 20.0, 60.0, 70.0]]])
    recipe = Recipe(weights=IntWeights(8), activations=IntActivations(equalize=False, observer="min-max"), method="rtn")
    yield quantize(model, [CalibrationBatch((pixels, boxes))], recipe=recipe), (pixels, boxes)


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_the_embedded_models_encoder(name: str, embedded: tuple) -> None:
    model, (pixels, _) = embedded[0].model, embedded[1]
    part = model.parts()["image_encoder"]
    part = replace(part, inputs=dict.fromkeys(part.inputs, pixels))
    with torch.no_grad():
        expected = part.module(pixels)
    session = compiled(name, part, "int8")
    floating = compiled("pytorch", part, "fp32")(pixels)
    assert relative(session(pixels), expected) < max(0.02, 0.5 * relative(floating, expected))
    assert session.quantized_products == 12, "two in each of six blocks"
    if "INT8" in _capabilities() and "VNNI" in features():
        assert session.integer_products == 12 and session.integer_layers <= session.quantized_layers


@pytest.mark.parametrize("name", [name for name in ON_INTEGERS if name != "tensorrt"])
def test_products_of_attention_that_would_overflow_stay_in_floating_point_and_are_told(
    name: str, embedded: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on x86 processors without VNNI."""
    monkeypatch.setattr("medquant.deploy.program.largest_code_here", lambda: LARGEST_CODE_WITHOUT_VNNI)
    model, (pixels, _) = embedded[0].model, embedded[1]
    part = model.parts()["image_encoder"]
    part = replace(part, inputs=dict.fromkeys(part.inputs, pixels))
    session = compiled(name, part, "int8")
    assert (session.quantized_products, session.integer_products) == (12, 0)
    with torch.no_grad():
        assert relative(session(pixels), part.module(pixels)) < 0.1
    twin = replace(embedded[0], model=model.with_network(model.network))
    session.simulated, session.layers = False, session.integer_layers
    twin.model.sessions = {"image_encoder": session}
    assert "12 products of attention in floating point" in execution_of(twin).describe()


def test_for_any_processor_products_of_attention_are_left_in_floating_point(embedded: tuple) -> None:
    seven = within_seven_bits(embedded[0])
    for model, rounded in ((seven, False), (embedded[0], True)):
        modules = attention_modules(model.model.network).values()
        assert {module.quantizers is not None for module in modules} == {rounded}
    notes = notes_on_int8(seven.model.parts()["image_encoder"], any_processor=True)
    assert any("Products of attention" in note for note in notes)
    assert not any("Products" in n for n in notes_on_int8(seven.model.parts()["mask_decoder"], any_processor=True))


def test_products_of_two_inputs_are_no_layers_of_onnxruntime() -> None:
    def node(operator: str, *inputs: str) -> onnx.NodeProto:
        return onnx.helper.make_node(operator, inputs, ["out"])

    weight = onnx.numpy_helper.from_array(np.zeros((2, 2), np.int8), "weight")
    nodes = [
        node("QLinearMatMul", "a", "scale", "zero", "b", "scale", "zero", "scale", "zero"),
        node("QLinearMatMul", "a", "scale", "zero", "weight", "scale", "zero", "scale", "zero"),
        node("MatMulIntegerToFloat", "a", "b", "scale", "scale", "zero", "zero"),
        node("QLinearConv", "a", "scale", "zero", "weight", "scale", "zero", "scale", "zero"),
        node("MatMul", "a", "b"),
    ]
    assert _on_integers(onnx.helper.make_graph(nodes, "g", [], [], [weight])) == (2, 2)


@pytest.fixture(scope="module", params=[False, True], ids=["asymmetric", "symmetric"])
def decoder(request: pytest.FixtureRequest) -> tuple[Part, tuple[torch.Tensor, ...], torch.Tensor]:
    """The embedded model's mask decoder, W8A8, its inputs, and what it makes of them."""
    symmetric = request.param
    model = load_model("embedded", device="cpu")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 16, 16, generator=generator)
    pixels = nn.functional.interpolate(coarse, size=(256, 256), mode="bilinear")
    boxes = torch.tensor([[[40.0, 50.0, 180.0, 200.0], [90.0, 20.0, 140.0, 120.0]]])
    plain = CalibrationSettings(sequential=False)
    activations = IntActivations(symmetric=symmetric, observer="mse")
    recipe = Recipe(weights=IntWeights(8), method="rtn", activations=activations, calibration=plain)
    batch = CalibrationBatch((pixels, boxes), torch.ones(1, 256, 256))
    parts = quantize(model, [batch], recipe=recipe).model.parts()
    with torch.inference_mode():
        embedding = parts["image_encoder"].module(pixels)
        expected = parts["mask_decoder"].module(embedding, boxes)
    return parts["mask_decoder"], (embedding, boxes), expected


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_a_mask_decoder_on_integers(name: str, decoder: tuple) -> None:
    """Transposed convolutions in 2-D, and boxes of any number."""
    part, inputs, expected = decoder
    session = RUNTIMES[name].compile(part, precision="int8", threads=1)
    assert relative(session(*inputs), expected) < 0.05
