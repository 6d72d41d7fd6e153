"""Inputs that stay in floating point: which, how much of the arithmetic, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.artifact import load
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.program import integer_layers
from medquant.errors import UserError
from medquant.layers import QuantizedLayer
from medquant.mixed.float_inputs import most_for_the_work, multiplications, require_share, with_float_inputs
from medquant.mixed.search import smallest_safe_model
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe
from medquant.rewrites.settings import LowRank, Redesign, Rewrites, Rotation, Smoothing
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding

REWRITES = {
    "smoothing": Rewrites(smoothing=Smoothing(0.5)),
    "rotation": Rewrites(rotation=Rotation(4)),
    "low rank": Rewrites(low_rank=LowRank(2)),
}
W8A8 = Recipe(weights=IntWeights(8), activations=IntActivations(8, equalize=False))


class Net(nn.Module):
    """Four convolutions; the input of `second` has one channel a thousand times the others, which cancels after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 1)
        with torch.no_grad():
            self.first.weight[0] *= 1000
            self.second.weight[:, 0] /= 1000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.first(x)))
        return self.last(torch.relu(self.third(torch.relu(x))))


@pytest.fixture(scope="module")
def model() -> TorchModel:
    """The network as a model."""
    torch.manual_seed(0)
    return from_module(Net(), name="net", roi_size=(24, 24))


@pytest.fixture(scope="module")
def batches() -> list[CalibrationBatch]:
    """Four inputs."""
    generator = torch.Generator().manual_seed(1)
    return [CalibrationBatch((torch.randn(1, 1, 24, 24, generator=generator),)) for _ in range(4)]


def test_multiplications_are_those_of_the_layers(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    places = 24 * 24
    expected = {"first": 8 * 9, "second": 64 * 9, "third": 128 * 9, "last": 48}
    assert multiplications(model, batches[0]) == {name: places * count for name, count in expected.items()}


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.tuples(st.floats(0, 1, allow_nan=False), st.integers(1, 1000)),
        min_size=1,
    ),
    st.floats(0, 3000),
)
def test_what_is_chosen_fits_and_nothing_better_was_left(layers: dict[str, tuple[float, int]], most: float) -> None:
    effects, work = {n: e for n, (e, _) in layers.items()}, {n: w for n, (_, w) in layers.items()}
    chosen = most_for_the_work(effects, work, most)
    used = sum(work[name] for name in chosen)
    assert used <= most and chosen == [name for name in layers if name in chosen]
    for name in layers:
        if name not in chosen and effects[name] > 0:  # it did not fit beside those worth more
            better = [one for one in chosen if effects[one] / work[one] >= effects[name] / work[name]]
            assert sum(work[one] for one in better) + work[name] > most


def test_the_input_that_breaks_is_left_as_it_is(
    model: TorchModel, batches: list[CalibrationBatch], tmp_path: Path
) -> None:
    recipe = with_float_inputs(model, batches, recipe=W8A8, share=0.33)
    assert recipe.float_inputs == ("second",)
    assert Recipe.from_json(recipe.to_json()) == recipe and "1 input in floating point" in recipe.describe()
    rounded, kept = (quantize(model, batches, recipe=one) for one in (W8A8, recipe))
    floating = {n for n, m in kept.model.network.named_modules() if isinstance(m, QuantizedLayer)} - set(
        integer_layers(kept.model.network)
    )
    assert floating == {"second"} and len(kept.report.layers) == 4
    image = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        full, all_rounded, found = (m.network(image) for m in (model, rounded.model, kept.model))
    assert (found - full).norm() < 0.5 * (all_rounded - full).norm()
    kept.save(tmp_path / "net.mq.safetensors")
    again = load(tmp_path / "net.mq.safetensors", model=model)
    with torch.inference_mode():
        assert torch.equal(again.model.network(image), found)


def test_the_others_run_on_integers(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    recipe = with_float_inputs(model, batches, recipe=W8A8, share=0.33)
    made = quantize(model, batches, recipe=recipe)
    runtime = OpenVino()
    if runtime.version() is None:
        pytest.skip("OpenVINO is not installed")
    (part,) = made.model.parts().values()
    session = runtime.compile(part, precision="int8", rest="fp32")
    assert session.quantized_layers >= session.integer_layers == 3
    (example, *_) = part.inputs.values()
    with torch.inference_mode():
        expected = made.model.network(example)
    assert (session(example) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("kind", REWRITES)
def test_rewritten_layers_have_the_work_of_the_original(
    kind: str, model: TorchModel, batches: list[CalibrationBatch]
) -> None:
    rewritten = replace(W8A8, rewrites={"*": REWRITES[kind]})
    recipe = with_float_inputs(model, batches, recipe=rewritten, share=0.33)
    work = multiplications(model, batches[0])
    assert sum(work[name] for name in recipe.float_inputs) <= 0.33 * sum(work.values())
    made = quantize(model, batches, recipe=recipe).model.network
    quantized = {n.removesuffix(".rewritten") for n, m in made.named_modules() if isinstance(m, QuantizedLayer)}
    floating = quantized - {name.removesuffix(".rewritten") for name in integer_layers(made)}
    assert set(recipe.float_inputs) <= floating < quantized


def test_what_is_measured_without_activations_does_not_mind(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    recipe = replace(W8A8, float_inputs=("second",), method="rtn")
    assert sensitivity(model, batches, recipe=recipe, roundings=[Rounding(4)], views=["proxy"]).cells
    assert smallest_safe_model(model, batches, recipe=recipe).quantized.recipe.float_inputs == ("second",)
    with pytest.raises(UserError, match="already"):
        with_float_inputs(model, batches, recipe=recipe, share=0.3)


def test_no_part_is_taken_of_a_network_that_becomes_another() -> None:
    with pytest.raises(UserError, match="redesign"):
        require_share(replace(W8A8, redesign=Redesign()), 0.15)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_part_is_a_part(share: float, model: TorchModel, batches: list[CalibrationBatch]) -> None:
    with pytest.raises(UserError, match=r"between 0 and 1.*0\.15"):
        with_float_inputs(model, batches, recipe=W8A8, share=share)


def test_without_integer_activations_there_is_nothing_to_leave_out(
    model: TorchModel, batches: list[CalibrationBatch]
) -> None:
    with pytest.raises(UserError, match="bits of activations"):
        with_float_inputs(model, batches, recipe=Recipe(), share=0.15)
    with pytest.raises(UserError, match="bits of activations"):
        Recipe(float_inputs=("conv*",))
    with pytest.raises(UserError, match="Give text"):
        Recipe.from_dict({"float_inputs": [1], "activations": {"bits": 8}})


def test_the_last_layer_keeps_its_pattern_not_its_bits() -> None:
    chosen = Recipe(activations=IntActivations(4), float_inputs=("a*",)).activations_for(["a", "b", "c"])
    assert chosen["a"] is None and chosen["b"].bits == 4 and chosen["c"].bits == 8
