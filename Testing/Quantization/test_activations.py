"""The inputs of layers as integers: networks, files, integer arithmetic, attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medquant import attention_products
from medquant.activation_settings import IntActivations
from medquant.attention_products import AttentionSamples
from medquant.errors import UserError
from medquant.granularity import Adaptive, PerChannel, PerGroup, PerTensor, PerToken, PerVoxel
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel
from medquant.quantize import quantize
from medquant.recipe import CalibrationSettings, IntWeights, Recipe


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


def test_samples_of_attention_are_of_all_channels() -> None:
    network = nn.Sequential(Attention())
    values = torch.zeros(12, 4096, 64)
    values[..., 5] = 1.0
    with AttentionSamples(network) as samples:
        for _ in range(40):
            network(values)
    kept = samples._sample("0", "query").values()
    assert float(kept.mean()) == pytest.approx(1 / 64, rel=0.2)
