"""Recipes as JSON: every one comes back the same, every wrong one is refused in words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medquant.activation_settings import IntActivations
from medquant.errors import UserError
from medquant.granularity import PerChannel, PerGroup, PerTensor, granularity_from_name
from medquant.recipe import METHODS, CalibrationSettings, IntWeights, Recipe
from medquant.rewrites.settings import Rewrites

granularities = st.one_of(st.just(PerTensor()), st.just(PerChannel()), st.builds(PerGroup, st.integers(2, 512)))
weights = st.builds(
    IntWeights, st.integers(2, 8), granularities, st.booleans(), st.sampled_from(["real", "integer", "half"])
)
calibrations = st.builds(
    CalibrationSettings,
    sequential=st.booleans(),
    foreground_share=st.floats(0, 1),
    centred=st.booleans(),
    ridge=st.none() | st.floats(1e-6, 10),
    positions_per_input=st.integers(1, 64),
    seed=st.integers(0, 2**40),
)
recipes = st.builds(
    Recipe,
    weights=weights,
    method=st.sampled_from(METHODS),
    sweeps=st.integers(1, 9),
    ends_bits=st.none() | st.integers(2, 8),
    fold_batch_norm=st.booleans(),
    calibration=calibrations,
    overrides=st.dictionaries(st.text(max_size=12), st.none() | weights, max_size=3),
)


@given(recipes)
def test_recipes_come_back_from_json(recipe: Recipe) -> None:
    text = recipe.to_json()
    assert Recipe.from_json(text) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert list(Recipe.from_json(text).overrides) == list(recipe.overrides), "the order decides which pattern wins"
    assert recipe.describe().startswith("W" if recipe.nominal_bits is None else f"W{recipe.nominal_bits}, per-")


def test_the_paper_as_read_comes_back() -> None:
    recipe = Recipe(scope="layer")
    assert Recipe.from_json(recipe.to_json()) == recipe and "sorted over the layer" in recipe.describe()


def test_what_is_left_out_is_the_default() -> None:
    assert Recipe.from_json("{}") == Recipe()
    assert Recipe.from_json('{"weights": {"bits": 2}}') == Recipe(weights=IntWeights(2))
    group = '{"weights": {"granularity": {"kind": "per-group", "size": 32}}}'
    assert Recipe.from_json(group).weights.granularity == PerGroup(32)


WRONG: list[dict[str, Any]] = [
    {"wieghts": {}},
    {"weights": {"bit": 4}},
    {"weights": {"bits": 1}},
    {"weights": {"bits": 9}},
    {"weights": {"bits": 4.5}},
    {"weights": {"bits": "4"}},
    {"weights": {"bits": True}},
    {"weights": {"bits": None}},
    {"weights": 4},
    {"weights": "W4"},
    {"weights": None},
    {"weights": {"zero_point": "float"}},
    {"weights": {"granularity": "per-group-64"}},
    {"weights": {"granularity": {"kind": "per-row"}}},
    {"weights": {"granularity": {"kind": "per-group", "size": 1}}},
    {"weights": {"granularity": {"kind": "per-group", "size": "64"}}},
    {"weights": {"granularity": {"kind": "per-channel", "size": 64}}},
    {"weights": {"granularity": {}}},
    {"method": "awq"},
    {"method": 3},
    {"scope": "network"},
    {"scope": "layer", "method": "rtn"},
    {"sweeps": 0},
    {"sweeps": "3"},
    {"ends_bits": 9},
    {"ends_bits": "8"},
    {"calibration": {"speed": 1}},
    {"calibration": [1]},
    {"calibration": {"foreground_share": 1.5}},
    {"calibration": {"foreground_share": "half"}},
    {"calibration": {"ridge": "weak"}},
    {"calibration": {"ridge": -1}},
    {"calibration": {"positions_per_input": 0}},
    {"overrides": {"conv*": {"bits": 12}}},
    {"overrides": {"conv*": "W4"}},
    {"overrides": ["conv*"]},
    {"overrides": "conv*"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_wrong_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        Recipe.from_json(json.dumps(wrong))
    assert str(error.value).rstrip(".").count(". ") >= 1, "what is wrong, and what to do"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"W4"', '{"weights": }'])
def test_text_that_is_no_recipe(text: str) -> None:
    with pytest.raises(UserError, match="recipe"):
        Recipe.from_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_any_value_anywhere_is_taken_or_refused_never_a_crash(value: Any) -> None:
    for entry in Recipe().to_dict():
        for data in ({entry: value}, {"weights": {"granularity": value}}, {"overrides": {"*": value}}):
            try:
                Recipe.from_dict(data)
            except UserError:
                continue


def test_names_of_granularities() -> None:
    assert granularity_from_name("per-tensor") == PerTensor()
    assert granularity_from_name("per-channel") == PerChannel()
    assert granularity_from_name("per-group") == PerGroup(64)
    assert granularity_from_name("per-group-32") == PerGroup(32)
    for wrong in ("", "channel", "per-group-", "per-group-x", "per-group--4", "64"):
        with pytest.raises(UserError, match="Choose per-tensor"):
            granularity_from_name(wrong)


def test_the_last_pattern_that_fits_wins() -> None:
    recipe = Recipe(
        overrides={"enc*": IntWeights(8), "enc.1*": None, "*": None, "enc.2": IntWeights(3)}, ends_bits=None
    )
    chosen = recipe.weights_for({"enc.1": 1000, "enc.2": 1000, "dec": 1000})
    assert chosen == {"enc.1": None, "enc.2": IntWeights(3), "dec": None}


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=12),
    st.integers(2, 8),
    st.floats(0, 1),
    st.none() | st.integers(2, 8),
)
def test_extra_bits_stay_within_their_budget(sizes: list[int], bits: int, extra: float, ends: int | None) -> None:
    """No layer gets less than asked, the ends get theirs, and all the others together no more than is left."""
    layers = {f"layer{i}": size for i, size in enumerate(sizes)}
    recipe = Recipe(weights=IntWeights(bits), ends_bits=ends, extra_bits=extra)
    chosen = {name: weights.bits for name, weights in recipe.weights_for(layers).items()}
    assert list(chosen) == list(layers) and all(b >= bits for b in chosen.values())
    first, last = "layer0", f"layer{len(sizes) - 1}"
    if ends is not None:
        assert chosen[first] >= ends and chosen[last] >= ends
    spent = {name: (chosen[name] - bits) * size for name, size in layers.items()}
    ends_spent = sum(spent[name] for name in {first, last}) if ends is not None else 0
    assert sum(spent.values()) - ends_spent <= max(0.0, extra * sum(sizes) - ends_spent) + 1e-6


def test_several_numbers_of_bits_by_name_are_a_mixed_model() -> None:
    base = Recipe(weights=IntWeights(bits=3))
    wish = replace(base, overrides={"a": base.grid(8), "b": None})
    assert (wish.nominal_bits, wish.label) == (3, "W3"), "a wish makes no mixed model"
    mixed = replace(base, overrides={"a": base.grid(8), "b": base.grid(2)})
    assert mixed.nominal_bits is None and mixed.label == "mixed"
    assert mixed.describe().startswith("W2 to W8 layer by layer, ")
    assert replace(mixed, activations=IntActivations(bits=8)).label == "mixed A8"
    usual = replace(base, overrides={"*": base.grid(8)})
    assert (usual.nominal_bits, usual.label) == (8, "W8") and usual.describe().startswith("W8, ")


def test_a_pattern_that_fits_no_layer_is_a_slip() -> None:
    layers = ["blocks.0.lin", "blocks.1.lin.rewritten", "head"]
    slips = (
        Recipe(overrides={"blok*": None}),
        Recipe(rewrites={"blok*": Rewrites()}),
        Recipe(activations=IntActivations(8), float_inputs=("blok*",)),
    )
    for recipe in slips:
        with pytest.raises(UserError, match=r"No layer is called blok\*.*blocks"):
            recipe.require_layers(layers)
    Recipe(overrides={"*": None, "blocks.*": None, "blocks.1.lin": None}).require_layers(layers)
    Recipe(overrides={"*": None}).require_layers([])
