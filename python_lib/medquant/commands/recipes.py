"""Recipes and calibration slices from the options that were given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medquant.errors import UserError

if TYPE_CHECKING:
    from medquant.models.base import CalibrationSelection
    from medquant.recipe import Recipe


def build_recipe(
    file: str | None, bits: int | None, method: str | None, granularity: str | None, symmetric: bool | None
) -> Recipe:
    """The recipe of a file or the default one, with the options that were given. Raises `UserError`."""
    from medquant.granularity import granularity_from_name
    from medquant.recipe import Recipe

    recipe = Recipe() if file is None else Recipe.from_json(_read_text(file))
    grid = {
        "bits": bits,
        "granularity": None if granularity is None else granularity_from_name(granularity),
        "symmetric": symmetric,
    }
    weights = replace(recipe.weights, **{name: value for name, value in grid.items() if value is not None})
    return replace(recipe, weights=weights, **({} if method is None else {"method": method}))


def with_activations(
    recipe: Recipe, bits: int | None, granularity: str | None, mode: str | None, dither: bool | None = None
) -> Recipe:
    """The recipe with the options for activations that were given. Raises `UserError`."""
    from medquant.activation_settings import IntActivations
    from medquant.granularity import activation_granularity_from_name

    given = {
        "bits": bits,
        "granularity": None if granularity is None else activation_granularity_from_name(granularity),
        "mode": mode,
        "dither": dither,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return recipe
    if recipe.activations is None and bits is None:
        raise UserError("The options of activations need their bits. Give --activations 8.")
    return replace(recipe, activations=replace(recipe.activations or IntActivations(), **given))


def with_rewrites(recipe: Recipe, names: list[str], redesign: list[str]) -> Recipe:
    """The recipe with all layers rewritten, and those of `redesign` exchanged, as asked. Raises `UserError`."""
    from medquant.rewrites.settings import Redesign, rewrites_from_names

    if names:
        recipe = replace(recipe, rewrites={"*": rewrites_from_names(names)})
    if redesign:
        recipe = replace(recipe, redesign=replace(recipe.redesign or Redesign(), layers=tuple(redesign)))
    return recipe


def build_selection(
    count: int, where: str | None, first: int | None, last: int | None, seed: int = 0
) -> CalibrationSelection:
    """Which slices calibrate. Raises `UserError`."""
    from medquant.models.base import CalibrationSelection

    ranged = first is not None or last is not None
    where = where or ("range" if ranged else "body")
    if where not in ("body", "even", "range"):
        raise UserError(f"Calibration slices cannot be chosen by {where!r}. Choose body, even or range.")
    if ranged != (where == "range"):
        raise UserError("--first and --last belong to --where range. Give them together.")
    if first is not None and last is not None and first > last:
        raise UserError(f"The range {first} to {last} is empty. Give --first before --last.")
    return CalibrationSelection(count=count, where=where, first=first, last=last, seed=seed)


def _read_text(file: str) -> str:
    path = Path(file).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"The recipe {path} cannot be read: {reason}. Give a JSON file.") from error
