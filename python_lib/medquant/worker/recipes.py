"""What a request says about quantizing, as the engine takes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medquant.models.base import CalibrationSelection
    from medquant.recipe import Recipe


def recipe_of(params: dict[str, Any]) -> Recipe:
    """The recipe of `bits`, `method`, `granularity`, `activations` (bits; 0: none) and `overrides` ({layer: bits}).

    An override of 32 bits leaves the layer in floating point. Raises `UserError`.
    """
    from medquant.activation_settings import IntActivations
    from medquant.granularity import granularity_from_name
    from medquant.recipe import IntWeights, Recipe

    weights = IntWeights(bits=int(params.get("bits", 4)))
    if params.get("granularity"):
        weights = replace(weights, granularity=granularity_from_name(params["granularity"]))
    recipe = Recipe(weights=weights)
    if params.get("method"):
        recipe = replace(recipe, method=params["method"])
    if params.get("activations"):
        recipe = replace(recipe, activations=IntActivations(bits=int(params["activations"])))
    kept = params.get("overrides") or {}
    overrides = {name: None if bits == 32 else replace(weights, bits=int(bits)) for name, bits in kept.items()}
    return replace(recipe, overrides={_literal(name): grid for name, grid in overrides.items()})


def selection_of(params: dict[str, Any]) -> CalibrationSelection:
    """Which slices calibrate: `slices` is a number, or `{"count", "where", "first", "last"}`."""
    from medquant.models.base import CalibrationSelection

    told = params.get("slices") or {}
    if isinstance(told, int):
        told = {"count": told}
    where = told.get("where", "body")
    ends = {end: int(told[end]) for end in ("first", "last") if where == "range" and told.get(end) is not None}
    return CalibrationSelection(count=max(1, int(told.get("count", 8))), where=where, **ends)


def _literal(name: str) -> str:
    """A layer's name as a pattern that fits it alone."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
