"""What a rewrite is worth: the figures of the study are those of the layers and networks themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from medquant.errors import Cancelled, UserError
from medquant.evaluation import rewrite_study
from medquant.evaluation.rewrite_study import AS_LARGE, LOW_RANK, NONE, OWN, recipe_of_study, study_rewrites
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.published_recipes import published
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe
from medquant.rewrites.settings import LowRank, Rewrites, Rotation
from medquant.sensitivity.change import Expected

FEW = {NONE: None, LOW_RANK: Rewrites(low_rank=LowRank(1)), "rotated": Rewrites(rotation=Rotation(4))}


@pytest.fixture(autouse=True)
def _few_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_study, "VARIANTS", FEW)


def outputs(network: nn.Module, layer: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the layer gives, and what the network gives."""
    kept = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _m, _a, output: kept.append(output.clone()))
    with torch.inference_mode():
        whole = network(x)
    hook.remove()
    return kept[0], whole


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("activations", "granularity"),
    [
        (None, None),
        (6, None),
        (None, "per-channel/token"),
        (6, "per-tensor"),
        (6, "per-channel/token"),
        (6, "adaptive"),
    ],
)
def test_figures_are_those_of_quantized_models(
    chained: nn.Module, pictures: list[torch.Tensor], activations: int | None, granularity: str | None
) -> None:
    model = from_module(chained, name="chained")
    calibrating, measuring = [CalibrationBatch((x,)) for x in pictures[:2]], pictures[2]
    recipe = recipe_of_study(4, activations, granularity=granularity)
    if activations and granularity is None:
        recipe = replace(recipe, activations=replace(recipe.activations, observer="min-max"))
    measured_on = [CalibrationBatch((measuring,))]
    found = study_rewrites(model, calibrating, recipe=recipe, most=2, measured_on=measured_on)
    variants = [*FEW, *([OWN] if activations and granularity in (None, "per-tensor") else [])]
    assert found.rounding == ("W4" if activations is None else f"W4A{activations}") and len(found.layers) == 2
    layers = [
        name
        for name, module in chained.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)
    ]
    with torch.inference_mode():
        expected = Expected(chained(measuring), exclusive=True)
    for layer in found.layers:
        full, _ = outputs(chained, layer, measuring)
        assert list(found.of(layer)) == variants
        for variant, one in found.of(layer).items():
            own = recipe if variant != OWN else replace(recipe, activations=replace(recipe.activations, equalize=True))
            alone = replace(own, ends_bits=None, extra_bits=0.0, rewrites={"*": FEW.get(variant)})
            made = quantize(model, calibrating, recipe=alone, ignore=[name for name in layers if name != layer])
            mine, whole = outputs(made.model.network, layer, measuring)
            assert one.output_error == pytest.approx(relative(mine, full), rel=0.02)
            assert one.change.error == pytest.approx(expected.change(whole).error, rel=0.05)
    for place in ("", found.layers[0]):
        assert list(found.whole(place)) == ([*variants, AS_LARGE] if not place else variants)
        one = found.whole(place)["rotated"]
        made = quantize(model, calibrating, recipe=replace(recipe, rewrites={place or "*": FEW["rotated"]}))
        with torch.inference_mode():
            assert one.change == expected.change(made.model.network(measuring))
        assert one.effective_bits == made.report.effective_bits
    whole = found.whole()
    # In so small a network the scales weigh more than the weights: it is larger, by how much the table tells.
    assert whole[NONE].effective_bits < min(whole[AS_LARGE].effective_bits, whole[LOW_RANK].effective_bits)


def test_a_granularity_is_the_paper_s_whole_setting() -> None:
    recipe = recipe_of_study(4, 8, granularity="per-channel/token")
    assert recipe == replace(published(4, "per-channel/token"), activations=recipe.activations)
    assert recipe.activations == replace(published(8, "per-channel/token").activations, bits=8)
    assert recipe.ends_bits is None and recipe.weights.symmetric and recipe.activations.mode == "dynamic"
    assert recipe_of_study(3, None, granularity="adaptive").activations is None
    assert recipe_of_study(4, 4).activations.mode == "static"  # the product's
    with pytest.raises(UserError, match="There is no granularity 'per-token'"):
        recipe_of_study(4, 4, granularity="per-token")


def test_half_of_the_inputs_measure_where_no_others_are_given(chained: nn.Module, pictures: list[torch.Tensor]) -> None:
    model, batches = from_module(chained, name="chained"), [CalibrationBatch((x,)) for x in pictures[:2]]
    recipe, seen = Recipe(IntWeights(4), "rtn"), []
    found = study_rewrites(model, batches, recipe=recipe, most=1, progress=seen.append)
    told = study_rewrites(model, batches[:1], recipe=recipe, most=1, measured_on=batches[1:])
    assert found == told
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    with pytest.raises(UserError, match="One input cannot calibrate and measure"):
        study_rewrites(model, batches[:1], recipe=recipe)
    with pytest.raises(Cancelled):
        study_rewrites(model, batches, recipe=recipe, cancelled=lambda: True)
