"""Whole networks: what is quantized and what is kept, how good it is, and that the original stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers import SamConfig, SamModel

from medquant.granularity import PerGroup
from medquant.imaging.volume import Volume
from medquant.layers import QuantizedLayer
from medquant.models.base import CalibrationBatch, CalibrationSelection
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.sam import SamModelAdapter
from medquant.models.torch_program import from_module
from medquant.network_edit import structural_twin
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import METHODS, CalibrationSettings, IntWeights, Recipe

MakeNetwork = Callable[..., nn.Module]
MakePictures = Callable[..., list[torch.Tensor]]
Quantized = Callable[..., QuantizedModel]


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def unchanged(network: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = network.state_dict()
    same = now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)
    quiet = not any("forward" in m.__dict__ or m._forward_hooks for m in network.modules())
    return same and quiet and not any(isinstance(m, QuantizedLayer) for m in network.modules())


@torch.inference_mode()
def error(quantized: QuantizedModel, network: nn.Module, inputs: list[torch.Tensor]) -> float:
    pairs = [(quantized.model.network(x), network(x)) for x in inputs]
    return float(sum((a - b).norm() for a, b in pairs) / sum((b - b.mean()).norm() for _, b in pairs))


def codes_of(quantized: QuantizedModel) -> dict[str, torch.Tensor]:
    return {n: m.codes() for n, m in quantized.model.network.named_modules() if isinstance(m, QuantizedLayer)}


def test_a_unet_as_a_whole(small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized) -> None:
    network, inputs, unseen = small_unet(), pictures(), pictures(2, seed=5)
    before = state(network)
    errors = {bits: error(quantized(network, inputs, bits), network, unseen) for bits in (2, 3, 4, 8)}
    assert errors[8] < 0.02 and errors[4] < 0.2
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    assert unchanged(network, before)


def test_every_layer_is_quantized_and_reported(
    small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    network = small_unet()
    result = quantized(network, pictures())
    layers = [n for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert [layer.name for layer in result.report.layers] == layers and not result.report.kept
    assert not any(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in result.model.network.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.model.network.modules()), "batch norms are folded"
    report = result.report
    assert report.simulated and report.calibration_inputs == 2 and report.parameters > 0
    assert report.seconds["total"] > 0 and report.peak_memory_mb > 0
    assert result.name == "small W4" and result.provenance.family == "torch"


def test_folding_alone_changes_nothing(small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized) -> None:
    """All layers but the head kept in floating point: what is left of the difference is that of the head."""
    network, inputs = small_unet(), pictures()
    kept = {"ignore": ("enter*", "down*", "middle*", "up*", "out*")}
    result = quantized(network, inputs, 8, **kept)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.model.network.modules())
    result.model.network.head = network.head
    with torch.inference_mode():
        # Kept layers of a thousand weights or more are rounded to half precision.
        torch.testing.assert_close(result.model.network(inputs[0]), network(inputs[0]), rtol=1e-3, atol=2e-3)
    unfolded = quantized(network, inputs, 8, settings={"fold_batch_norm": False})
    assert sum(isinstance(m, nn.BatchNorm2d) for m in unfolded.model.network.modules()) == 3
    assert error(unfolded, network, inputs) < 0.02


def test_convolution_activation_norm_is_not_folded(quantized: Quantized) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)).eval()
    nn.init.normal_(network[2].running_mean)
    x = torch.randn(1, 1, 12, 12)
    result = quantized(network, [x], 8)
    assert isinstance(result.model.network[2], nn.BatchNorm2d) and error(result, network, [x]) < 0.02


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sequential", [True, False])
def test_methods(
    method: str, sequential: bool, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    network, inputs = small_unet(), pictures()
    settings = {"method": method, "calibration": CalibrationSettings(sequential=sequential)}
    first, second = (quantized(network, inputs, 4, settings=settings) for _ in range(2))
    assert error(first, network, inputs) < 0.4
    one, other = codes_of(first), codes_of(second)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    with torch.inference_mode():
        assert torch.equal(first.model.network(inputs[0]), second.model.network(inputs[0]))


def test_sequential_calibration_and_good_codes_pay(
    small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    def mean_error(**settings: object) -> float:
        total = 0.0
        for seed in range(3):
            network, inputs = small_unet(seed), pictures(3, seed=seed)
            settings = {"ends_bits": None, "extra_bits": 0.0, **settings}
            total += error(quantized(network, inputs, 3, settings=settings), network, inputs)
        return total / 3

    sequential, independent = mean_error(), mean_error(calibration=CalibrationSettings(sequential=False))
    rounded = mean_error(method="rtn", calibration=CalibrationSettings(sequential=False, centred=False))
    assert sequential < independent < rounded


def test_grouped_and_depth_wise_layers(quantized: Quantized) -> None:
    torch.manual_seed(0)
    layers = nn.Conv3d(2, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.Conv3d(8, 12, 1, groups=4)
    network = nn.Sequential(*layers, nn.PReLU(), nn.ConvTranspose3d(12, 6, 2, 2, groups=3), nn.Conv3d(6, 2, 1)).eval()
    x = [torch.randn(1, 2, 5, 7, 6) for _ in range(2)]
    assert error(quantized(network, x, 8), network, x) < 0.02
    assert error(quantized(network, x, IntWeights(4, PerGroup(8))), network, x) < 0.3
    assert quantized(network, x, IntWeights(3), settings={"scope": "layer"}).report.effective_bits > 8


def test_effective_bits_by_hand(quantized: Quantized) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 48, bias=False), nn.Linear(48, 4)).eval()
    inputs = [torch.randn(1, 50, 64)]
    report = quantized(network, inputs, 4, settings={"ends_bits": None, "extra_bits": 0.0}).report
    weights, outputs = 64 * 32 + 32 * 48 + 48 * 4, 32 + 48 + 4
    # Codes of four bits, a scale and an offset of 16 bits for every output.
    assert report.effective_bits == pytest.approx((4 * weights + 32 * outputs) / weights)
    assert report.layers[1].effective_bits == pytest.approx(4 + 32 / 32)
    ends = quantized(network, inputs, 2, settings={"extra_bits": 0.0}).report
    assert [layer.bits for layer in ends.layers] == [8, 2, 8]
    # At eight bits, scale and offset have 32 each.
    by_hand = (8 * (64 * 32 + 48 * 4) + 2 * 32 * 48 + 64 * (32 + 4) + 32 * 48) / weights
    assert ends.effective_bits == pytest.approx(by_hand)
    kept = quantized(network, inputs, 2, settings={"ends_bits": None, "extra_bits": 0.0}, ignore=("2",)).report
    # Of a layer that is kept, the weight counts as it is stored: rounded to half precision, 16 bits.
    by_hand = (16 * 32 * 48 + 2 * (64 * 32 + 48 * 4) + 32 * (32 + 4)) / weights
    assert kept.effective_bits == pytest.approx(by_hand) and kept.kept == {"2": "ignored as asked"}


def test_ignored_and_overridden_layers(small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized) -> None:
    network, inputs = small_unet(), pictures()
    overrides = {"down*": IntWeights(6), "up": None, "out.?": IntWeights(2, zero_point="half")}
    result = quantized(network, inputs, 4, settings={"overrides": overrides}, ignore=("mid*",))
    bits = {layer.name: layer.bits for layer in result.report.layers}
    assert bits["down.0"] == 6 and bits["out.0"] == 2 and bits["enter.0"] >= 4
    assert result.report.kept == {"middle.0": "ignored as asked", "up": "kept by the recipe"}
    assert isinstance(result.model.network.up, nn.ConvTranspose2d)
    assert error(result, network, inputs) < 1.0


class Odd(nn.Module):
    """A layer called twice, one never called, one with a forward pass of its own, one known by two names."""

    def __init__(self) -> None:
        super().__init__()

        class Scaled(nn.Linear):
            def forward(self, input: torch.Tensor) -> torch.Tensor:
                return 0.5 * super().forward(input)

        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Sequential(self.enter, nn.ReLU())
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.never = nn.Conv2d(8, 8, 1)
        self.scaled = Scaled(8, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(torch.relu(self.twice(self.block(x))))
        return self.head(x + self.scaled(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("sequential", [True, False])
def test_layers_that_are_called_oddly(sequential: bool, pictures: MakePictures, quantized: Quantized) -> None:
    torch.manual_seed(0)
    network, inputs = Odd().eval(), pictures()
    calibration = CalibrationSettings(sequential=sequential)
    result = quantized(network, inputs, 8, settings={"calibration": calibration})
    assert {layer.name for layer in result.report.layers} == {"enter", "twice", "head"}
    assert set(result.report.kept) == {"never", "scaled"}
    assert "not called" in result.report.kept["never"] and "forward pass" in result.report.kept["scaled"]
    assert isinstance(result.model.network.block[0], QuantizedLayer), "the layer is exchanged under both names"
    assert result.model.network.enter is result.model.network.block[0]
    assert error(result, network, inputs) < 0.03


def test_an_output_size_that_is_asked_for(quantized: Quantized) -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up, self.head = (
                nn.Conv2d(1, 4, 3, 2, 1),
                nn.ConvTranspose2d(4, 4, 3, 2, 1),
                nn.Conv2d(4, 2, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.up(self.down(input=x), output_size=x.shape[2:]))

    torch.manual_seed(0)
    network, x = Up().eval(), torch.randn(1, 1, 10, 12)
    for sequential in (True, False):
        settings = {"calibration": CalibrationSettings(sequential=sequential)}
        assert error(quantized(network, [x], 8, settings=settings), network, [x]) < 0.03


def test_an_output_without_places(quantized: Quantized) -> None:
    """A classifier: there is no foreground to find."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(50, 8)
    assert error(quantized(network, [x], 8), network, [x]) < 0.03


def test_a_windowed_vision_transformer_with_its_decoder(tiny_sam: SamConfig) -> None:
    torch.manual_seed(0)
    network = SamModel(tiny_sam).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    settings = SlicePreprocessing(image_size=48)
    spec = {"family": "medsam", "name": "tiny", "config": tiny_sam.to_dict(), "preprocessing": settings.to_dict()}
    model = SamModelAdapter(network, preprocessing=settings, name="tiny", spec=spec, weights_hash="0" * 64)
    box = torch.tensor([[[5.0, 6.0, 30.0, 40.0], [10.0, 10.0, 20.0, 44.0]]])
    batches = [CalibrationBatch((torch.randn(1, 3, 48, 48), box), torch.ones(1, 48, 48)) for _ in range(2)]
    before = state(network)
    result = quantize(model, batches, recipe=Recipe(weights=IntWeights(8)))
    assert unchanged(network, before)
    names = {layer.name for layer in result.report.layers}
    assert {"vision_encoder.layers.0.attn.qkv", "vision_encoder.patch_embed.projection"} <= names
    assert not [
        n for n, m in result.model.network.named_modules() if isinstance(m, nn.Linear) and n not in result.report.kept
    ]
    with torch.inference_mode():
        found, expected = (
            model.forward_for_calibration(n, *batches[0].inputs) for n in (result.model.network, network)
        )
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_a_twin_shares_numbers_but_not_modules(small_unet: MakeNetwork) -> None:
    network = small_unet()
    twin = structural_twin(network)
    assert all(a is b for a, b in zip(network.parameters(), twin.parameters()))
    assert not set(map(id, network.modules())) & set(map(id, twin.modules()))


def test_a_model_quantized_from_a_volume(small_unet: MakeNetwork) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(8, 16, 16)).astype(np.float32)
    volume = Volume(array.copy(), np.eye(4), name="Doe^Jane")
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1))
    model, selection = from_module(network, name="mine", roi_size=(8, 8, 8)), CalibrationSelection(3, "even")
    result = quantize(model, volume, selection=selection)
    assert result.report.calibration_inputs == 3
    assert result.provenance.calibration_sha256 == (volume.content_hash(),)
    assert np.array_equal(volume.array, array)
    labels = result.model.segment(volume).labels
    assert labels.shape == volume.shape
