"""The inputs of layers as integers: grids, observers, granularities of MedQuanBench, integer arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant import attention_products
from medquant.activation_settings import OBSERVERS, IntActivations
from medquant.activations import ActivationQuantizer, fit_quantizer, spread_of
from medquant.attention_products import AttentionSamples
from medquant.dither import ordered_dither
from medquant.errors import UserError
from medquant.geometry import LayerGeometry
from medquant.granularity import Adaptive, PerChannel, PerGroup, PerTensor, PerToken, PerVoxel
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel
from medquant.observers import find_range, grid_of
from medquant.quantize import quantize
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

LINEAR = LayerGeometry.of(nn.Linear(6, 4))
POINTWISE = LayerGeometry.of(nn.Conv3d(6, 4, 1))
CONVOLUTION = LayerGeometry.of(nn.Conv3d(6, 4, 3))
DEPTHWISE = LayerGeometry.of(nn.Conv3d(6, 6, 1, groups=6))
TRANSPOSED = LayerGeometry.of(nn.ConvTranspose3d(6, 4, 2, stride=2))


@pytest.mark.parametrize(
    ("granularity", "spreads"),
    [
        (PerTensor(), ("tensor", "tensor", "tensor", "tensor", "tensor")),
        (PerChannel(), ("channel", "channel", "channel", "channel", "channel")),
        (PerToken(), ("position", "channel", "channel", "channel", "channel")),
        (PerVoxel(), ("position", "position", "position", "position", "position")),
        (Adaptive(), ("position", "position", "channel", "channel", "channel")),
    ],
)
def test_what_one_scale_covers(granularity: object, spreads: tuple[str, ...]) -> None:
    settings = IntActivations(granularity=granularity, mode="dynamic")
    kinds = (LINEAR, POINTWISE, CONVOLUTION, DEPTHWISE, TRANSPOSED)
    assert tuple(spread_of(settings, geometry) for geometry in kinds) == spreads


def explicit(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: int) -> torch.Tensor:
    """The levels of a grid listed one by one; every value goes to the nearest."""
    scale = (high - low) / (levels - 1)
    zero = torch.round(-low / scale)
    table = (torch.arange(levels) - zero) * scale
    return table[(values[..., None] - table).abs().argmin(-1)]


@given(st.integers(2, 8), st.booleans(), st.sampled_from(["tensor", "channel", "position"]), st.integers(0, 99))
def test_a_dynamic_grid_is_that_of_its_input(bits: int, symmetric: bool, spread: str, seed: int) -> None:
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 0.4
    quantizer = ActivationQuantizer(bits, spread, symmetric=symmetric, channel_axis=1)
    found = quantizer(values)
    for part in {"tensor": [0, 1], "channel": [(0, 1), (1, 2)], "position": [(1, slice(None), 2, 3)]}[spread]:
        low, high = values[part].min().clamp_max(0), values[part].max().clamp_min(0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        step = (high - low) / (2**bits - symmetric - 1)
        wanted = explicit(values[part], low, high, 2**bits - symmetric)
        # A value midway between two levels may go to either.
        differs = (found[part] - wanted).abs() > step * 0.01
        assert (found[part] - wanted).abs().max() <= step * 1.001 and int(differs.sum()) <= 1 + differs.numel() // 50
    assert torch.equal(quantizer(torch.zeros_like(values)), torch.zeros_like(values))


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerToken(), PerVoxel(), Adaptive()])
def test_a_batch_on_dynamic_grids_is_that_of_its_parts(granularity: object) -> None:
    recipe = recipe_of(8, IntActivations(4, granularity=granularity, mode="dynamic", equalize=False))
    network = quantize(model_of(Net().eval()), inputs(), recipe=recipe).model.network
    quiet = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(3))
    loud = 40 * torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        together, alone = network(torch.cat([quiet, loud])), network(quiet)
    # A sum that differs in its last bit may round to the next integer; beside the loud one no level would be left.
    assert (together[:1] - alone).norm() < 0.02 * alone.norm()


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_observer_keeps_zero_exact_and_covers_a_plain_range(observer: str, symmetric: bool) -> None:
    samples = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [5.0], [0.1]])
    low, high = find_range(samples, 255 if symmetric else 256, observer, symmetric=symmetric)
    assert (low <= 0).all() and (high > 0).all()
    if symmetric:
        assert torch.equal(low, -high)
    assert (high > 0.9 * samples.amax(1)).all() and (high <= samples.amax(1) * 1.001).all()


@given(st.integers(2, 8), st.booleans(), st.integers(0, 50))
def test_least_error_is_no_worse_than_the_full_range(bits: int, symmetric: bool, seed: int) -> None:
    samples = torch.randn(2, 3000, generator=torch.Generator().manual_seed(seed)) ** 3
    levels = 2**bits - symmetric

    def error(observer: str) -> torch.Tensor:
        scale, zero = (v[:, None] for v in grid_of(*find_range(samples, levels, observer, symmetric=symmetric), levels))
        return (((samples / scale + zero).round().clamp(0, levels - 1) - zero) * scale - samples).square().mean(1)

    assert (error("mse") <= error("min-max") * 1.0001).all()


@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
def test_a_lone_outlier_does_not_decide(observer: str) -> None:
    samples = torch.randn(1, 20000, generator=torch.Generator().manual_seed(0))
    samples[0, 7] = 30.0
    assert find_range(samples, 16, observer, symmetric=False)[1] < 20
    assert find_range(samples, 16, "min-max", symmetric=False)[1] == 30


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="2 to 8 bits"):
        IntActivations(bits=9)
    with pytest.raises(UserError, match="cannot be static"):
        IntActivations(granularity=PerVoxel())
    with pytest.raises(UserError, match="per-group"):
        IntActivations(granularity=PerGroup())
    with pytest.raises(UserError, match="Weights cannot"):
        IntWeights(granularity=PerVoxel())
    with pytest.raises(UserError, match="observer"):
        IntActivations(observer="median")


def test_a_recipe_with_activations_survives_json() -> None:
    settings = IntActivations(bits=4, granularity=Adaptive(), mode="dynamic", symmetric=True, equalize=False)
    recipe = Recipe(activations=settings)
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(UserError, match="unknown entries"):
        Recipe.from_dict({"activations": {"bitz": 4}})


class Net(nn.Module):
    """Every kind of layer, with channels of very different reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.mix = nn.Linear(12, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.last = nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            self.first.weight.mul_(torch.logspace(-1, 1, 8)[:, None, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.down(torch.relu(self.first(x))))))
        x = torch.relu(self.mix(x.movedim(1, -1))).movedim(-1, 1)
        return self.last(torch.relu(self.up(x)))


def model_of(network: nn.Module) -> TorchModel:
    def unused(*_: object) -> object:
        raise AssertionError("the tests give the network's inputs themselves")

    return TorchModel(
        network, preprocess=unused, postprocess=unused, name="net", spec={"family": "torch"}, weights_hash=""
    )


def inputs(count: int = 3) -> list[CalibrationBatch]:
    generator = torch.Generator().manual_seed(3)
    return [CalibrationBatch((torch.randn(1, 1, 24, 24, generator=generator),)) for _ in range(count)]


def recipe_of(weight_bits: int, activations: IntActivations | None, **options: object) -> Recipe:
    calibration = CalibrationSettings(foreground_share=0.0)
    return Recipe(weights=IntWeights(weight_bits), activations=activations, calibration=calibration, **options)


def output_error(recipe: Recipe) -> float:
    network = Net().eval()
    model = model_of(network)
    quantized = quantize(model, inputs(), recipe=recipe).model.network
    fresh = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        wanted = network(fresh)
        return float((quantized(fresh) - wanted).norm() / wanted.norm())


def test_eight_bits_are_close_and_four_are_not_lost() -> None:
    assert output_error(recipe_of(8, IntActivations(8))) < 0.02
    assert output_error(recipe_of(4, IntActivations(4))) < 0.3
    assert output_error(recipe_of(8, IntActivations(8))) > output_error(recipe_of(8, None))


def test_equalization_does_the_work_of_a_scale_for_each_channel() -> None:
    plain, equalized = (output_error(recipe_of(8, IntActivations(4, equalize=e))) for e in (False, True))
    assert equalized < plain


@pytest.mark.parametrize("sequential", [True, False])
def test_layers_get_their_grids(sequential: bool) -> None:
    network = Net().eval()
    model = model_of(network)
    calibration = CalibrationSettings(foreground_share=0.0, sequential=sequential)
    recipe = Recipe(weights=IntWeights(4), activations=IntActivations(4), calibration=calibration)
    quantized = quantize(model, inputs(), recipe=recipe).model.network
    layers = {n: m for n, m in quantized.named_modules() if isinstance(m, QuantizedLayer)}
    assert set(layers) == {"first", "down", "depthwise", "mix", "up", "last"}
    bits = {name: layer.input_quantizer.bits for name, layer in layers.items()}
    assert bits == {"first": 8, "down": 4, "depthwise": 4, "mix": 4, "up": 4, "last": 8}
    assert all(layer.input_quantizer.has_integer_kernel for layer in layers.values())
    assert layers["depthwise"].input_divisor is None


def test_integers_give_what_the_layer_gives() -> None:
    """The products of integer codes, scaled once at the end, are the layer's output: an integer kernel can do it."""
    model = model_of(Net().eval())
    recipe = recipe_of(8, IntActivations(8))
    layer = quantize(model, inputs(), recipe=recipe).model.network.get_submodule("mix")
    values = torch.rand(50, 12, generator=torch.Generator().manual_seed(1)) * 3
    quantizer = layer.input_quantizer
    divided = values if layer.input_divisor is None else values / layer.input_divisor
    codes = (divided / quantizer.scale).round().add(quantizer.zero).clamp(0, 255).int() - quantizer.zero
    weights = layer.codes()[0].int() + int(layer.zero)
    assert codes.abs().max() <= 255 and weights.abs().max() <= 128
    expected = (codes @ weights).float() * quantizer.scale * layer.scale[0].float() + layer.bias
    with torch.inference_mode():
        torch.testing.assert_close(layer(values), expected, rtol=1e-4, atol=1e-4)


class Attending(nn.Module):
    """Attention of MONAI's, of torch's, and a gate that is only called so."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.blocks.selfattention import SABlock
        from monai.networks.nets.attentionunet import AttentionBlock
        from monai.networks.nets.swin_unetr import WindowAttention

        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.gate = AttentionBlock(2, 4, 8, 8)
        self.unetr = SABlock(8, 2)
        self.swin = WindowAttention(8, 2, (4, 4))
        self.torch = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        x = self.gate(x, x)
        tokens = self.swin(self.unetr(x.flatten(2).mT), None)
        return self.out(self.torch(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(x.shape))


def test_attention_that_is_not_rounded_is_named() -> None:
    model = model_of(Attending().eval())
    batches = [CalibrationBatch((torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)),))]
    kept = quantize(model, batches, recipe=recipe_of(8, IntActivations())).report.kept
    assert {name for name, reason in kept.items() if "products" in reason} == {"unetr", "swin", "torch"}
    kept = quantize(model, batches, recipe=recipe_of(8, None)).report.kept
    assert not any("products" in reason for reason in kept.values())


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerToken(), PerVoxel(), Adaptive()])
def test_a_file_gives_the_same_outputs(granularity: object, tmp_path: Path) -> None:
    from medquant import artifact

    mode = "static" if isinstance(granularity, PerTensor | PerChannel) else "dynamic"
    model = model_of(Net().eval())
    recipe = recipe_of(4, IntActivations(4, granularity=granularity, mode=mode))
    quantized = quantize(model, inputs(), recipe=recipe)
    quantized.save(tmp_path / "net.mq.safetensors")
    loaded = artifact.load(tmp_path / "net.mq.safetensors", model=model)
    fresh = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        assert torch.equal(loaded.model.network(fresh), quantized.model.network(fresh))
    assert loaded.recipe == recipe


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_a_dither_is_even_and_leaves_zero_alone(size: list[int]) -> None:
    moved = ordered_dither(tuple(size))
    assert moved.shape == torch.Size(size) and moved.abs().max() < 0.5
    assert torch.equal(moved.round(), torch.zeros_like(moved))
    cells = 2 ** len(size)
    whole = ordered_dither((8,) * len(size))
    assert len(whole.unique()) == cells and abs(float(whole.mean())) < 1e-6


@given(st.floats(0.0, 1.0), st.sampled_from(["tensor", "channel"]))
def test_a_cell_of_even_tissue_has_many_levels(value: float, spread: str) -> None:
    """Sixteen levels give a voxel an error of up to 1/30, and the mean of eight voxels one of up to 1/240."""
    scale = torch.tensor(1 / 15) if spread == "tensor" else torch.full((1,), 1 / 15)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    quantizer = ActivationQuantizer(4, spread, symmetric=False, channel_axis=1, dither=True, scale=scale, zero=zero)
    found = quantizer(torch.full((1, 1, 4, 4, 4), value))
    # At the ends of the range there is nothing to move to.
    if 1 / 30 < value < 1 - 1 / 30:
        assert abs(float(found.mean()) - value) <= 1 / 240 + 1e-6
    assert ((found * 15 - (found * 15).round()).abs() < 1e-4).all()


def test_only_layers_that_sum_over_neighbours_are_dithered() -> None:
    values = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    kinds = (LINEAR, POINTWISE, CONVOLUTION, DEPTHWISE, TRANSPOSED)
    made = [fit_quantizer(IntActivations(4), geometry, values).dither for geometry in kinds]
    assert made == [False, False, True, False, False]
    assert not fit_quantizer(IntActivations(4, dither=False), CONVOLUTION, values).dither


class Attention(nn.Module):
    watch = None

    def __init__(self) -> None:
        super().__init__()
        self.quantizers = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for factor in attention_products.FACTORS:
            self.watch(factor, values)
        return values


def test_samples_of_attention_are_bounded_and_keep_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "SAMPLES", 1000)
    network = nn.Sequential(Attention())
    generator = torch.Generator().manual_seed(0)
    with AttentionSamples(network) as samples:
        for number in range(200):
            values = torch.randn(3, 77, generator=generator) + 0.01 * number
            network(values.clamp(-2, 2) if number != 100 else values.clamp(-2, 2) + 50)
    kept = samples._sample("0", "key").values()
    assert 500 < len(kept) <= 2002
    assert float(kept.min()) == -2 and float(kept.max()) > 50
    assert float(kept[kept < 10].median()) == pytest.approx(0.95, abs=0.25), "of all times, not of the first ones"
    samples.fit(IntActivations(8, observer="min-max"))
    assert set(network[0].quantizers) == set(attention_products.FACTORS)
    assert network[0].watch is None


@pytest.mark.parametrize("observer", ["min-max", "mse", "output"])
def test_a_loud_channel_is_seen_wherever_it_is(observer: str) -> None:
    """2^18 numbers are looked at; of 24 times as many, with 24 times 32 channels, every channel must be among them."""
    values = torch.randn(8192, 768, generator=torch.Generator().manual_seed(0))
    values[:, 37] *= 50
    settings = IntActivations(8, symmetric=True, observer=observer)
    found = fit_quantizer(settings, LayerGeometry.of(nn.Linear(768, 4)), values)
    error = (found(values[:, 37]) - values[:, 37]).square().mean() / values[:, 37].square().mean()
    assert error < 0.02


def test_samples_of_attention_are_of_all_channels() -> None:
    network = nn.Sequential(Attention())
    values = torch.zeros(12, 4096, 64)
    values[..., 5] = 1.0
    with AttentionSamples(network) as samples:
        for _ in range(40):
            network(values)
    kept = samples._sample("0", "query").values()
    assert float(kept.mean()) == pytest.approx(1 / 64, rel=0.2)


def test_dither_lies_where_the_values_do() -> None:
    quantizer = ActivationQuantizer(4, "tensor", symmetric=False, channel_axis=1, dither=True)
    assert quantizer(torch.zeros(1, 2, 4, 4, device="meta")).device.type == "meta"
