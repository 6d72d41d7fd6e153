"""Where rows of a layer lie: a spot in the image is found again in windows, shifts, patches and tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn
from torch.nn import functional

from medquant.evaluation.activations import first_inputs, study_activations
from medquant.evaluation.kurtosis import kurtosis
from medquant.matrices import by_channel, is_quantizable
from medquant.models.base import CalibrationBatch, Model
from medquant.models.places import places_of_rows
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.sam import SamModelAdapter
from medquant.models.torch_program import TorchModel, from_module


def randomized(network: nn.Module) -> nn.Module:
    """All weights at random, so that every layer passes on what it gets."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return network.eval()


def brightest(model: Model, inputs: tuple[torch.Tensor, ...], spot: tuple[int, ...]) -> dict[str, list[float]]:
    """Of each layer where the row lies that changes most when one voxel does."""
    seen: dict[str, torch.Tensor] = {}
    changes: dict[str, torch.Tensor] = {}

    def look(name: str, module: nn.Module, given: torch.Tensor) -> None:
        values = by_channel(module, given)
        changes[name] = (values - seen.setdefault(name, values)).abs().sum(0)

    other = inputs[0].clone()
    other[(0, slice(None), *spot)] += 50
    for image in (inputs[0], other):
        with torch.inference_mode(), first_inputs(model.network, look):
            model.forward_for_calibration(model.network, image, *inputs[1:])
    places = model.places(model.network, *inputs)
    return {name: rows[:, changes[name].argmax()].tolist() for name, rows in places.items()}


@pytest.fixture(scope="module")
def windows() -> TorchModel:
    """The encoder of a SwinUNETR: of an image of 64 voxels a side 32 tokens a side, in windows of seven."""
    return from_module(randomized(SwinUNETR(1, 3, feature_size=12, depths=(2, 1, 1, 1)).swinViT), name="windows")


@pytest.mark.parametrize("spot", [(3, 50, 21), (60, 8, 63)])
def test_a_spot_is_found_in_windows_and_shifted_windows(windows: TorchModel, spot: tuple[int, ...]) -> None:
    image = torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    found = brightest(windows, (image,), spot)
    token = [place // 2 * 2 + 0.5 for place in spot]
    for layer in ("blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.1.mlp.linear1"):
        assert found[f"layers1.0.{layer}"] == token


def test_padding_of_windows_has_no_place(windows: TorchModel) -> None:
    places = windows.places(windows.network, torch.zeros(1, 1, 64, 64, 64))
    for block in (0, 1):
        rows = places[f"layers1.0.blocks.{block}.attn.qkv"]
        real = ~rows.isnan().any(0)
        assert rows.shape == (3, 35**3) and int(real.sum()) == 32**3
        assert len(rows[:, real].unique(dim=1).T) == 32**3, "each token once"


@pytest.mark.parametrize("projection", ["conv", "perceptron"])
def test_a_spot_is_found_in_tokens(projection: str) -> None:
    options = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "proj_type": projection}
    model = from_module(randomized(UNETR(1, 3, (32, 48, 64), **options)), name="unetr")
    image = torch.randn(1, 1, 32, 48, 64, generator=torch.Generator().manual_seed(0))
    found = brightest(model, (image,), (20, 9, 60))["vit.blocks.0.attn.qkv"]
    assert found == [23.5, 7.5, 55.5], "the middle of the patch of 16 x 16 x 16"


def test_a_spot_is_found_in_the_windows_of_sam(small_adapter: Callable[..., SamModelAdapter]) -> None:
    """Eight tokens a side in windows of three: the ninth is padding, and is in no figure."""
    model = small_adapter(SlicePreprocessing(image_size=64))
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs = (pixels, torch.tensor([[[8.0, 8.0, 40.0, 40.0], [4.0, 20.0, 30.0, 60.0]]]))
    assert brightest(model, inputs, (63, 17))["vision_encoder.layers.0.attn.qkv"] == [59.5, 19.5]
    study = study_activations(model, [CalibrationBatch(inputs)])
    layers = {one.layer: one for one in study.layers}
    windowed = layers["vision_encoder.layers.0.attn.qkv"]
    assert windowed.positions == 64 and windowed.padding == pytest.approx(1 - 64 / 81)
    plain = layers["vision_encoder.layers.1.attn.qkv"]
    assert plain.positions == 64 and plain.padding == 0
    assert layers["mask_decoder.upscale_conv1"].placed
    assert not layers["mask_decoder.transformer.layers.0.self_attn.q_proj"].placed, "prompts have no place"
    only = {name for name, one in layers.items() if not one.segmenting}
    assert only == {f"prompt_encoder.mask_embed.conv{number}" for number in (1, 2, 3)}
    assert not only & {one.layer for one in (*study.drawn, *study.maps, study.smoothed)}
    assert all(one.values.ndim == 2 for one in study.maps)


def test_statistics_are_those_of_the_real_rows(small_adapter: Callable[..., SamModelAdapter]) -> None:
    model = small_adapter(SlicePreprocessing(image_size=64))
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs, layer = (pixels, torch.tensor([[[8.0, 8.0, 40.0, 40.0]]])), "vision_encoder.layers.0.attn.qkv"
    seen: dict[str, torch.Tensor] = {}
    with torch.inference_mode(), first_inputs(model.network, lambda name, _, given: seen.setdefault(name, given)):
        model.forward_for_calibration(model.network, *inputs)
    windows = seen[layer].reshape(3, 3, 3, 3, -1).transpose(1, 2).reshape(9, 9, -1)
    assert float(windows[8].abs().max()) == float(windows[:, 8].abs().max()) == 0
    found = next(one for one in study_activations(model, [CalibrationBatch(inputs)]).layers if one.layer == layer)
    real = windows[:8, :8]
    assert (found.minimum, found.maximum) == (float(real.min()), float(real.max()))
    assert found.deviation == pytest.approx(float(real.std(correction=0)), rel=1e-4)
    assert found.kurtosis_within == pytest.approx(float(kurtosis(real.flatten(0, 1), 0).mean()), rel=1e-4)


def test_grids_lie_on_one_another_by_their_middles() -> None:
    """As convolutions of stride 2 and transposed ones, pools and interpolation go down and up again."""
    down = nn.Sequential(nn.Conv1d(1, 4, 3, 2, 1), nn.MaxPool1d(2), nn.ConvTranspose1d(4, 2, 2, 2), nn.Conv1d(2, 2, 3))
    places = places_of_rows(down, lambda network, x: network(x), (torch.zeros(1, 1, 16),))
    assert places["2"].tolist() == [[1.5, 5.5, 9.5, 13.5]]
    assert places["3"].tolist() == [[0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5]]


class Lost(nn.Module):
    """Looks at numbers, sorts them, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 3, 1), nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.first(x)).sort(-1).values)


def test_what_is_not_known_is_not_told() -> None:
    network = Lost()
    assert all(is_quantizable(module) for module in network.children())
    places = places_of_rows(network, lambda network, x: network(x), (torch.zeros(1, 1, 9),))
    assert list(places) == ["first"]
    found = study_activations(from_module(network, name="lost"), [CalibrationBatch((torch.randn(1, 1, 9),))])
    assert [one.placed for one in found.layers] == [True, False] and [one.layer for one in found.maps] == ["first"]
