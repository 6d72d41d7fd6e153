"""Every runtime installed here computes what the engine's own quantized network does, and says how."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.attention_products import attention_modules
from medquant.deploy.cache import CompiledCache
from medquant.deploy.export.int8_weights import notes_on_int8, within_seven_bits
from medquant.deploy.int8_codes import LARGEST_CODE_WITHOUT_VNNI
from medquant.deploy.machine import features
from medquant.deploy.onnxruntime_runtime import _on_integers
from medquant.deploy.openvino_program import openvino_model
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.program import integer_layers
from medquant.deploy.pytorch_runtime import PyTorch
from medquant.deploy.runtime import RUNTIMES, Session
from medquant.errors import UserError
from medquant.granularity import PerGroup
from medquant.models.base import CalibrationBatch, Part
from medquant.models.registry import load_model
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe
from medquant.segment import execution_of

INSTALLED = [name for name in RUNTIMES if RUNTIMES[name].version() is not None and name != "pytorch-compiled"]
ON_INTEGERS = [name for name in INSTALLED if name != "pytorch"]


class UNet(nn.Module):
    """Two levels with instance norm, a transposed convolution and a skip connection, as nnU-Net has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self._level(1, 16, 1)
        self.second = self._level(16, 24, 2)
        self.up = nn.ConvTranspose3d(24, 16, 2, 2)
        self.last = nn.Sequential(self._level(32, 16, 1), nn.Conv3d(16, 3, 1))

    def _level(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        norm = nn.InstanceNorm3d(outputs, affine=True)
        return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, 1), norm, nn.LeakyReLU(0.01))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.first(image)
        return self.last(torch.cat([self.up(self.second(skip)), skip], 1))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    torch.manual_seed(1)
    return nn.functional.interpolate(torch.randn(1, 1, 4, 4, 4), size=(16, 16, 16), mode="trilinear").contiguous()


@pytest.fixture(scope="module")
def unet(image: torch.Tensor) -> QuantizedModel:
    """W8A8, symmetric activations as transposed convolutions need them for integer kernels."""
    torch.manual_seed(0)
    activations = IntActivations(symmetric=True, equalize=False, observer="min-max", dither=False)
    recipe = Recipe(weights=IntWeights(8), activations=activations, method="rtn")
    model = from_module(UNet(), name="unet", roi_size=(16, 16, 16))
    return quantize(model, [CalibrationBatch((image,))], recipe=recipe)


def part_of(network: nn.Module, image: torch.Tensor) -> Part:
    return Part(network, {"image": image}, ("logits",))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def compiled(name: str, part: Part, precision: str, **options: object) -> object:
    """On FP32 outside the integers, so that nothing but the integers' own rounding is left."""
    if name == "openvino" and precision == "int8":
        options["rest"] = "fp32"
    return RUNTIMES[name].compile(part, precision=precision, threads=1, **options)


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


@pytest.fixture(scope="module")
def fp32(unet: QuantizedModel, image: torch.Tensor) -> Callable[[str], Session]:
    """The network in FP32 by each runtime, compiled once."""

    @cache
    def session(name: str) -> Session:
        return compiled(name, part_of(unet.model.network, image), "fp32")

    return session


@pytest.mark.parametrize("name", INSTALLED)
def test_floating_point_leaves_inputs_unrounded(name: str, fp32: Callable, image: torch.Tensor) -> None:
    session = fp32(name)
    assert relative(session(image), fp32("pytorch")(image)) < 1e-4
    assert not session.simulated


def test_compiled_pytorch_computes_the_same(unet: QuantizedModel, image: torch.Tensor) -> None:
    runtime = RUNTIMES["pytorch-compiled"]
    if runtime.version() is None:
        pytest.skip("this machine has no C++ compiler")
    part = part_of(unet.model.network, image)
    session = runtime.compile(part, precision="fp32", threads=1)
    assert (session.runtime, session.simulated) == ("pytorch-compiled", False)
    assert relative(session(image), PyTorch().compile(part, precision="fp32")(image)) < 1e-4


def test_without_a_compiler_pytorch_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch, unet: QuantizedModel, image: torch.Tensor
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    runtime = RUNTIMES["pytorch-compiled"]
    assert runtime.version() is None
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        runtime.compile(part_of(unet.model.network, image), precision="fp32")


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


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_the_number_of_boxes_may_vary(name: str) -> None:
    part = load_model("embedded", device="cpu").parts()["mask_decoder"]
    session = compiled(name, part, "fp32")
    embedding, boxes = part.inputs.values()
    for count in (1, 3):
        some = boxes[:, :1].repeat(1, count, 1) + torch.arange(count)[None, :, None]
        with torch.no_grad():
            assert relative(session(embedding, some), part.module(embedding, some)) < 1e-3


def test_a_second_start_reads_what_the_first_compiled(
    tmp_path: Path, unet: QuantizedModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, cache = part_of(unet.model.network, image), CompiledCache(tmp_path)
    first = OpenVino().compile(part, precision="int8", cache=tmp_path)(image)
    assert cache.count() == 1
    monkeypatch.setattr("medquant.deploy.openvino_program.openvino_model", None)  # compiling again would fail
    again = OpenVino().compile(part, precision="int8", cache=tmp_path)
    assert torch.equal(again(image), first)
    assert again.integer_layers == again.quantized_layers or again.simulated


def test_a_damaged_cache_is_rebuilt(tmp_path: Path, unet: QuantizedModel, image: torch.Tensor) -> None:
    part, cache = part_of(unet.model.network, image), CompiledCache(tmp_path)
    first = OpenVino().compile(part, precision="fp32", cache=tmp_path)(image)
    (entry,) = tmp_path.glob("*.compiled")
    entry.write_bytes(entry.read_bytes()[:1000])
    assert torch.equal(OpenVino().compile(part, precision="fp32", cache=tmp_path)(image), first)
    assert cache.read(entry.stem) is not None and cache.size_bytes() > 1000


@pytest.mark.parametrize("name", INSTALLED)
def test_no_permission_to_write_a_cache(tmp_path: Path, name: str, unet: QuantizedModel, image: torch.Tensor) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    assert compiled(name, part_of(unet.model.network, image), "fp32", cache=in_the_way)(image).shape[1] == 3


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


@pytest.mark.parametrize("name", INSTALLED)
def test_threads_take_turns(name: str, fp32: Callable, image: torch.Tensor) -> None:
    session = fp32(name)
    images = [image * factor for factor in (0.5, 1.0, 2.0)]
    expected, found = [session(one) for one in images], [None] * 3

    def run(number: int) -> None:
        found[number] = session(images[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", INSTALLED)
def test_an_output_stays_as_it_is(name: str, fp32: Callable, image: torch.Tensor) -> None:
    session = fp32(name)
    first = session(image)
    before = first.clone()
    second = session(image * 2 - 1)
    assert torch.equal(first, before), "the next run does not write into it"
    assert not torch.equal(first, second)
    with torch.inference_mode():
        first.zero_()
    assert torch.equal(session(image), before)


def test_pytorch_runs_where_the_model_lies(
    unet: QuantizedModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert RUNTIMES["pytorch"].devices()[0] == "cuda"
    part = part_of(unet.model.network, image)
    assert compiled("pytorch", part, "fp32").device == "cpu"
    with pytest.raises(UserError, match="on cpu"):
        compiled("pytorch", part, "fp16")


@pytest.mark.parametrize("name", INSTALLED)
def test_a_precision_that_is_not_there(name: str, unet: QuantizedModel, image: torch.Tensor) -> None:
    with pytest.raises(UserError, match="Choose one of"):
        RUNTIMES[name].compile(part_of(unet.model.network, image), precision="int3")


def test_runtimes_that_are_not_installed_say_how_to_get_them(
    unet: QuantizedModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, runtime in RUNTIMES.items():
        if name.startswith("pytorch"):
            continue
        assert (runtime.version(), runtime.devices(), runtime.precisions()) == (None, [], ())
        with pytest.raises(UserError, match="pip install"):
            runtime.compile(part_of(unet.model.network, image), precision="fp32")


def test_an_old_openvino_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2023.3.0")
    assert OpenVino().version() is None


class Unconvertible(nn.Module):
    """Uses something that no converter knows."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(image)


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_an_operator_that_the_runtime_lacks(name: str, image: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"cannot convert|no form in ONNX|cannot read"):
        RUNTIMES[name].compile(part_of(Unconvertible(), image), precision="fp32")


@pytest.mark.parametrize("name", INSTALLED)
def test_bf16_is_close_where_the_processor_has_it(
    name: str, unet: QuantizedModel, fp32: Callable, image: torch.Tensor
) -> None:
    if "bf16" not in RUNTIMES[name].precisions():
        pytest.skip("no bf16 here")
    part = part_of(unet.model.network, image)
    found = RUNTIMES[name].compile(part, precision="bf16")(image)
    expected = fp32(name)(image)
    assert 0 < relative(found, expected) < 0.05
