"""Quantized layers in the form of other runtimes: the same numbers, int8 weights where they can be exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention

from medquant.activations import ActivationQuantizer
from medquant.attention_products import FACTORS
from medquant.channels import Live
from medquant.deploy.int8_codes import LARGEST_CODE_WITHOUT_VNNI, nearest_int8
from medquant.deploy.program import (
    DecodedLayer,
    GroupedLinear,
    IntegerLayer,
    StaticQuantizer,
    decoded_program,
    integer_layers,
    integer_program,
    rounds_inputs,
)
from medquant.dither import ordered_dither
from medquant.geometry import LayerGeometry
from medquant.grid import Grid
from medquant.layers import QuantizedLayer
from medquant.models.sam_attention import attend_in_chunks
from medquant.network_edit import set_module
from medquant.quantized_model import QuantizedModel

LAYERS = [
    (nn.Linear(6, 5), (2, 3, 6)),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (1, 4, 7, 7)),
    (nn.Conv3d(3, 4, 3, stride=2, bias=False), (1, 3, 7, 7, 7)),
    (nn.ConvTranspose3d(4, 3, 2, stride=2), (1, 4, 3, 3, 3)),
    (nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2), (1, 4, 3, 3, 3)),
]


def quantized_layer(module: nn.Module, bits: int, zero: float | None = None, seed: int = 0) -> QuantizedLayer:
    """Random codes on a grid for each output; the offset is real where there is no zero point."""
    geometry = LayerGeometry.of(module)
    layout, generator = geometry.layout, torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (layout.groups, layout.rows, layout.columns), generator=generator)
    if zero == -128:
        codes = codes.clamp_min(1)
    grids = []
    for _ in range(layout.groups):
        each = torch.rand(layout.columns // layout.share, generator=generator) * 0.01 + 0.002
        scale = each.repeat_interleave(layout.share)[None]
        real = -(torch.rand(scale.shape[1] // layout.share, generator=generator) + 0.2).repeat_interleave(layout.share)
        offset = scale * (2 ** (bits - 1)) * real[None] if zero is None else scale * zero
        grids.append(Grid(scale, offset, 2**bits, torch.zeros(layout.rows, dtype=torch.long)))
    bias = None if module.bias is None else module.bias.detach()
    return QuantizedLayer.from_solutions(geometry, bits, codes.to(torch.uint8), grids, zero, bias, Live())


def static(low: float, high: float, levels: int = 256, axis: int = 1) -> ActivationQuantizer:
    symmetric = levels % 2 == 1
    scale = (high - low) / (levels - 1)
    zero = torch.tensor(round(-low / scale), dtype=torch.int32)
    bits = levels.bit_length() - (not symmetric)
    return ActivationQuantizer(
        bits, "tensor", symmetric=symmetric, channel_axis=axis, scale=torch.tensor(scale), zero=zero
    )


@pytest.mark.parametrize(("bits", "zero"), [(8, -128.0), (4, -8.0), (2, -1.5), (3, -3.5), (4, -3.0)])
@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_grids_with_a_whole_or_half_zero_point_are_exact(number: int, bits: int, zero: float) -> None:
    layer = quantized_layer(LAYERS[number][0], bits, zero)
    program = integer_program(with_quantizer(layer, static(-1, 1)))
    assert isinstance(program, IntegerLayer)
    assert torch.allclose(program.weight(), layer.weight, rtol=1e-5, atol=1e-7)
    assert program.codes.dtype == torch.int8


def test_flat_transposed_convolutions_stay_in_floating_point_for_openvino() -> None:
    layer = with_quantizer(quantized_layer(nn.ConvTranspose2d(4, 3, 2, stride=2), 8, -128.0), static(-1, 1))
    assert isinstance(integer_program(layer), DecodedLayer)
    assert isinstance(integer_program(layer, dialect="onnx"), IntegerLayer)


@pytest.mark.parametrize("dialect", ["openvino", "onnx"])
@pytest.mark.parametrize(("size", "permuted"), [(4, False), (4, True), (5, True)])
def test_groups_of_inputs_stay_codes_where_they_are_of_one_length(size: int, permuted: bool, dialect: str) -> None:
    layer = grouped_layer(12, 5, size, permuted)
    layer.input_divisor = torch.rand(12) + 0.5
    program = integer_program(layer, dialect=dialect)
    assert isinstance(program, GroupedLinear if size == 4 and dialect == "openvino" else DecodedLayer)
    inputs = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(program(inputs), layer(inputs), atol=1e-5)


@pytest.mark.parametrize(("bits", "largest", "rounded"), [(8, 63, False), (8, 127, True), (7, 63, True)])
def test_products_of_attention_that_could_overflow_are_not_rounded(bits: int, largest: int, rounded: bool) -> None:
    config = SamVisionConfig(hidden_size=8, num_attention_heads=2, image_size=16, patch_size=4, use_rel_pos=False)
    attention = nn.Sequential(SamVisionAttention(config, window_size=0)).eval()
    attend_in_chunks(attention)
    quantizer = static(-1, 1, 2**bits - 1, axis=-1)
    assert quantizer.bits == bits
    attention[0].quantizers = nn.ModuleDict(dict.fromkeys(FACTORS, quantizer))
    program = integer_program(attention, largest_code=largest)
    assert (program[0].quantizers is not None) == rounded and attention[0].quantizers is not None


def grouped_layer(inputs: int, outputs: int, size: int, permuted: bool) -> QuantizedLayer:
    generator = torch.Generator().manual_seed(0)
    groups = -(-inputs // size)
    row_group = torch.arange(inputs) // size
    row_group = row_group[torch.randperm(inputs, generator=generator)] if permuted else row_group
    scale = torch.rand(groups, outputs, generator=generator) * 0.1 + 0.02
    offset = -8 * scale * torch.rand(groups, outputs, generator=generator)
    codes = torch.randint(0, 16, (1, inputs, outputs), generator=generator, dtype=torch.uint8)
    geometry = LayerGeometry.of(nn.Linear(inputs, outputs))
    return QuantizedLayer.from_solutions(geometry, 4, codes, [Grid(scale, offset, 16, row_group)], None, None, Live())


def with_quantizer(layer: QuantizedLayer, quantizer: ActivationQuantizer) -> QuantizedLayer:
    layer.input_quantizer = quantizer
    return layer


@given(bits=st.integers(2, 8), number=st.integers(0, len(LAYERS) - 1), seed=st.integers(0, 50))
@settings(max_examples=60)
def test_no_weight_moves_by_more_than_half_a_scale(bits: int, number: int, seed: int) -> None:
    layer = quantized_layer(LAYERS[number][0], bits, seed=seed)
    weight = layer.weight
    for largest in (127, LARGEST_CODE_WITHOUT_VNNI):
        codes, scale = nearest_int8(layer, largest)
        assert codes.shape == weight.shape and int(codes.max()) <= largest and int(codes.min()) >= -largest - 1
        program = IntegerLayer(layer, StaticQuantizer(static(-1, 1)), largest, "openvino")
        assert torch.equal(program.scale, scale)
        error = float((program.weight() - weight).abs().max())
        assert error <= 0.51 * float(scale.max()) and error <= 0.51 * float(weight.abs().max()) / largest


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("dialect", ["openvino", "onnx"])
@pytest.mark.parametrize("levels", [256, 255, 16, 15])
@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_the_program_computes_what_the_engine_does(number: int, levels: int, dialect: str, dither: bool) -> None:
    module, shape = LAYERS[number]
    low, high = (-0.7, 1.9) if levels % 2 == 0 else (-1.5, 1.5)
    layer = with_quantizer(quantized_layer(module, 8, -128.0), static(low, high, levels))
    layer.input_quantizer.dither = dither = dither and isinstance(module, nn.Conv2d | nn.Conv3d)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1.2
    if levels == 255:  # the program has one level more below the range
        inputs = inputs.clamp_min(low)
    # Keep off the halves between two levels, which either may round its own way.
    grid = inputs / float(layer.input_quantizer.scale)
    grid = grid + ordered_dither(shape[2:]) if dither else grid
    inputs = torch.where((grid - grid.floor() - 0.5).abs() < 1e-2, inputs.new_zeros(()), inputs)
    found = integer_program(layer, dialect=dialect)(inputs)
    assert torch.allclose(found, layer(inputs), atol=1e-5)


def test_channels_are_divided_as_by_the_engine() -> None:
    for module, shape in LAYERS[:1] + LAYERS[2:4]:
        layer = with_quantizer(quantized_layer(module, 8, -128.0), static(-9.0, 9.0, 255))
        layer.input_divisor = torch.rand(shape[-1] if isinstance(module, nn.Linear) else shape[1]) + 0.5
        inputs = torch.randn(shape)
        assert torch.allclose(integer_program(layer)(inputs), layer(inputs), atol=1e-5)


def test_the_original_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5))
    set_module(network, "0", with_quantizer(quantized_layer(nn.Linear(6, 6), 8, -128.0), static(-1, 1)))
    set_module(network, "2", quantized_layer(nn.Linear(6, 5), 4))
    inputs = torch.randn(3, 6)
    before = network(inputs)
    program = integer_program(network)
    assert isinstance(network[0], QuantizedLayer) and torch.equal(network(inputs), before)
    assert isinstance(program[0], IntegerLayer) and torch.allclose(program(inputs), before, atol=1e-5)
    assert integer_layers(network) == ["0"] and rounds_inputs(network)


def test_without_integers_inputs_are_not_rounded() -> None:
    layer = with_quantizer(quantized_layer(nn.Linear(6, 5), 8, -128.0), static(-0.1, 0.1))
    inputs = torch.randn(3, 6)
    expected = nn.functional.linear(inputs, layer.weight, layer.bias)
    for program in (integer_program(layer, integers=False), decoded_program(layer, integers=False)):
        assert torch.allclose(program(inputs), expected, atol=1e-5)
    assert torch.equal(decoded_program(layer)(inputs), layer(inputs))


def test_what_has_no_integer_kernel_stays_simulated() -> None:
    layer = quantized_layer(nn.Conv3d(3, 4, 3), 8, -128.0)
    layer.input_quantizer = ActivationQuantizer(8, "position", symmetric=True, channel_axis=1)
    inputs = torch.randn(1, 3, 5, 5, 5)
    program = integer_program(layer)
    assert isinstance(program, DecodedLayer) and not integer_layers(nn.Sequential(layer))
    assert torch.allclose(program(inputs), layer(inputs), atol=1e-6)


def test_a_quantized_model_as_the_engine_makes_it(integer_patchwise: QuantizedModel) -> None:
    network = integer_patchwise.model.network
    assert len(integer_layers(network)) == 3
    inputs = torch.randn(1, 1, 4, 16, 16)
    with torch.no_grad():
        expected, found = network(inputs), integer_program(network)(inputs)
    assert float((found - expected).abs().mean()) < 0.01 * float(expected.abs().mean())
