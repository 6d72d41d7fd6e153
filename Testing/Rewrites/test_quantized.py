"""Rewrites as a part of a recipe: what is quantized, stored, opened again, and run on integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from medquant import artifact
from medquant.activation_settings import IntActivations
from medquant.errors import UserError
from medquant.granularity import PerChannel
from medquant.layers import QuantizedLayer
from medquant.models.torch_program import from_module
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe
from medquant.rewrites.rewritten import Rewritten
from medquant.rewrites.settings import LowRank, Rewrites, Rotation, Smoothing

Quantize = Callable[..., QuantizedModel]
ALL = Rewrites(True, Smoothing(), Rotation(4), LowRank(1))
EACH = [
    Rewrites(equalization=True),
    Rewrites(smoothing=Smoothing()),
    Rewrites(smoothing=Smoothing(None)),
    Rewrites(rotation=Rotation()),
    Rewrites(low_rank=LowRank(1)),
    ALL,
]
each = pytest.mark.parametrize("wanted", EACH, ids=lambda one: one.describe().replace(" ", "-"))


@each
@pytest.mark.parametrize("bits", [None, 8], ids=["weights", "both"])
def test_the_quantized_model_opens_again_with_the_same_outputs(
    wanted: Rewrites,
    bits: int | None,
    chained: nn.Module,
    pictures: list[torch.Tensor],
    quantized: Quantize,
    tmp_path: Path,
) -> None:
    before = {name: tensor.clone() for name, tensor in chained.state_dict().items()}
    modules = [type(module) for module in chained.modules()]
    activations = None if bits is None else IntActivations(bits=bits)
    recipe = Recipe(weights=IntWeights(8), activations=activations, rewrites={"*": wanted})
    assert Recipe.from_json(recipe.to_json()) == recipe
    made = quantized(chained, pictures[:2], recipe)
    with torch.inference_mode():
        output, expected = made.model.network(pictures[2]), chained(pictures[2])
    assert float((output - expected).norm() / expected.norm()) < (0.02 if bits is None else 0.1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in chained.state_dict().items())
    assert [type(module) for module in chained.modules()] == modules
    size = made.save(tmp_path / "small.mq.safetensors")
    opened = artifact.load(tmp_path / "small.mq.safetensors", model=from_module(chained, name="small"))
    with torch.inference_mode():
        assert torch.equal(opened.model.network(pictures[2]), output)
    assert opened.recipe == recipe and opened.report.rewritten == made.report.rewritten
    assert opened.report.bytes_on_disk == size
    assert set(made.report.rewritten) == {"first", "second", "third", "up", "after_up", "summed", "head"} | {
        f"mlp.{n}" for n in (0, 2, 4)
    }


@each
def test_effective_bits_count_what_the_rewrites_store(
    wanted: Rewrites, chained: nn.Module, pictures: list[torch.Tensor], quantized: Quantize, tmp_path: Path
) -> None:
    """From the tensors of the file: everything but biases and norms stands for a weight."""
    recipe = Recipe(method="rtn", fold_batch_norm=False, drop_dead_channels=False, rewrites={"*": wanted})
    made = quantized(chained, pictures[:2], recipe)
    made.save(tmp_path / "small.mq.safetensors")
    _, tensors = artifact._read(tmp_path / "small.mq.safetensors")
    stored = sum(
        8 * tensor.numel() * tensor.element_size()
        for name, tensor in tensors.items()
        if not name.endswith("bias") and not name.startswith("factors.")
    )
    layers = [module for module in chained.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    assert made.report.effective_bits == pytest.approx(stored / weights, rel=1e-12)
    by_layer = sum(layer.effective_bits * torch.Size(layer.shape).numel() for layer in made.report.layers)
    assert by_layer / weights == pytest.approx(made.report.effective_bits, rel=1e-12)
    branches = [name for name in made.report.kept if name.endswith(".branch")]
    assert len(branches) == sum("rank 1 in floating point" in words for words in made.report.rewritten.values())
    assert bool(branches) == (wanted.low_rank is not None)


def test_patterns_say_which_layers_and_the_last_one_wins(
    chained: nn.Module, pictures: list[torch.Tensor], quantized: Quantize
) -> None:
    rewrites = {"*": Rewrites(rotation=Rotation()), "mlp.*": None, "mlp.4": Rewrites(low_rank=LowRank(2))}
    overrides = {"third": IntWeights(8), "summed": None}
    recipe = Recipe(method="rtn", ends_bits=None, extra_bits=0.0, overrides=overrides, rewrites=rewrites)
    made = quantized(chained, pictures[:1], recipe, ignore=["up"])
    found = {name: m for name, m in made.model.network.named_modules() if isinstance(m, Rewritten)}
    assert set(found) == {"second", "third", "after_up", "head", "mlp.4"}
    assert found["mlp.4"].down is not None and found["mlp.4"].order == 1 and found["third"].order == 4
    bits = {layer.name: layer.bits for layer in made.report.layers}
    assert bits["third.rewritten"] == 8 and bits["second.rewritten"] == bits["mlp.0"] == 4
    assert type(made.model.network.up) is nn.ConvTranspose2d and type(made.model.network.summed) is nn.Conv2d
    assert made.report.kept["up"] == "ignored as asked" and made.report.kept["summed"] == "kept by the recipe"
    assert "rotation 32, no rewriting of mlp.*, rank 2 of mlp.4" in recipe.describe()


def test_a_branch_is_what_makes_few_bits_bearable(quantized: Quantize) -> None:
    """A weight whose largest part is of rank one, at 2 bits: the branch carries it exactly."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 48), nn.Tanh())
    with torch.no_grad():
        network[0].weight.copy_(5 * torch.outer(torch.randn(48), torch.randn(64)) + 0.1 * torch.randn(48, 64))
    inputs = [torch.randn(200, 64) / 50 for _ in range(2)]
    errors = []
    for rewrites in ({}, {"*": Rewrites(low_rank=LowRank(1))}):
        recipe = Recipe(weights=IntWeights(2), method="rtn", ends_bits=None, extra_bits=0.0, rewrites=rewrites)
        made = quantized(network, inputs[:1], recipe)
        with torch.inference_mode():
            expected = network(inputs[1])
            errors.append(float((made.model.network(inputs[1]) - expected).norm() / expected.norm()))
    assert errors[1] < 0.1 * errors[0]


def test_smoothing_helps_one_scale_for_channels_of_different_reach(quantized: Quantize) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 24), nn.Tanh())
    inputs = [torch.randn(200, 32) * torch.logspace(-2, 0, 32) for _ in range(2)]
    errors = []
    for rewrites in ({}, {"*": Rewrites(smoothing=Smoothing())}):
        activations = IntActivations(bits=4, equalize=False, observer="min-max")
        recipe = Recipe(IntWeights(8), "rtn", activations=activations, ends_bits=None, rewrites=rewrites)
        made = quantized(network, inputs[:1], recipe)
        with torch.inference_mode():
            expected = network(inputs[1])
            errors.append(float((made.model.network(inputs[1]) - expected).norm() / expected.norm()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("wanted", [Rewrites(), *EACH], ids=lambda one: one.describe().replace(" ", "-"))
def test_layers_inside_run_on_integer_kernels_and_the_rest_is_counted(
    wanted: Rewrites, quantized: Quantize, pictures: list[torch.Tensor]
) -> None:
    """OpenVINO computes what the engine simulates; a branch is told as layers in floating point."""
    from medquant.deploy.openvino_runtime import OpenVino

    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )
    network = nn.Sequential(*layers).eval()
    recipe = Recipe(weights=IntWeights(8), activations=IntActivations(), method="rtn", rewrites={"*": wanted})
    made = quantized(network, pictures[:2], recipe, roi_size=(16, 16))
    session = OpenVino().compile(made.model.parts()["network"], precision="int8", threads=1)
    with torch.inference_mode():
        expected = made.model.network(pictures[2])
    assert float((session(pictures[2]) - expected).norm() / expected.norm()) < 0.02
    branches = sum(name.endswith(".branch") for name in made.report.kept)
    assert session.integer_layers == 3 and session.layers == 3 + 2 * branches
    assert bool(branches) == (wanted.low_rank is not None)


def test_scales_without_an_integer_kernel_stay_simulated(
    chained: nn.Module, pictures: list[torch.Tensor], quantized: Quantize
) -> None:
    from medquant.deploy.program import integer_layers
    from medquant.segment import execution_of

    activations = IntActivations(mode="dynamic", granularity=PerChannel())
    recipe = Recipe(activations=activations, method="rtn", rewrites={"*": Rewrites(rotation=Rotation())})
    made = quantized(chained, pictures[:1], recipe)
    assert not integer_layers(made.model.network) and execution_of(made).simulated and made.report.simulated


class Nosy(nn.Module):
    """Multiplies by what it reads off a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.b.rewritten if isinstance(self.b, Rewritten) else self.b
        scale = layer.weight.abs().max() if not isinstance(layer, QuantizedLayer) else 1.0
        return self.b(self.a(x)) * scale


def test_a_network_that_would_change_is_refused(pictures: list[torch.Tensor], quantized: Quantize) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"changes the network's output by .* Leave the rewrites out"):
        quantized(Nosy(), pictures[:1], Recipe(rewrites={"*": Rewrites(rotation=Rotation())}))


def test_a_file_that_another_model_wrote_is_refused(
    chained: nn.Module, pictures: list[torch.Tensor], quantized: Quantize, tmp_path: Path
) -> None:
    made = quantized(chained, pictures[:1], Recipe(method="rtn", rewrites={"*": ALL}))
    made.save(tmp_path / "small.mq.safetensors")
    other = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 3, 1))
    with pytest.raises(UserError, match="does not describe a model that this version can build"):
        artifact.load(tmp_path / "small.mq.safetensors", model=from_module(other, name="small"))


def test_the_solver_fits_rewritten_layers_one_after_the_other(
    chained: nn.Module, pictures: list[torch.Tensor], quantized: Quantize
) -> None:
    """Sequential calibration goes through the wrappers: better than each layer rounded to the nearest level."""
    errors = {}
    for method in ("rtn", "permutation-comq"):
        recipe = Recipe(weights=IntWeights(3), method=method, rewrites={"*": Rewrites(rotation=Rotation())})
        made = quantized(chained, pictures[:2], recipe)
        with torch.inference_mode():
            expected = chained(pictures[2])
            errors[method] = float((made.model.network(pictures[2]) - expected).norm() / expected.norm())
    assert errors["permutation-comq"] < errors["rtn"]
