"""What is compared: Table 14's precisions, the product's recipes beside the paper's, and weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medquant.activation_settings import IntActivations
from medquant.bench.quality import recipes
from medquant.errors import UserError, one_of
from medquant.published_recipes import published
from medquant.recipe import IntWeights, Recipe

MEDQUANT, PAPER, NEAREST = "medquant", "per-tensor rtn", "rtn"
"""The product's own recipe; the paper's, of inputs and weights; weights alone, rounded to the nearest."""
PRECISIONS = ("W8A8", "W4A4", "W8", "W4", "W2")


@dataclass(frozen=True)
class Setting:
    """A row: how the network is rounded."""

    precision: str
    """FP32, W8A8 (weights and the layers' inputs) or W4 (weights alone)."""
    method: str
    recipe: Recipe | None = None
    """None: the network as it is."""

    @property
    def name(self) -> str:
        return f"{self.precision} {self.method}".strip()


FP32 = Setting("FP32", "")


def settings(precisions: Sequence[str] = PRECISIONS) -> list[Setting]:
    """The rounded rows of the precisions, in the order of `PRECISIONS`. Raises `UserError` for an unknown one."""
    for odd in (name for name in precisions if name not in PRECISIONS):
        raise UserError(f"There is no precision {odd!r}. Choose {one_of(PRECISIONS)}.")
    return [one for name in PRECISIONS if name in precisions for one in _of_precision(name)]


def _of_precision(precision: str) -> Iterator[Setting]:
    bits = int(precision[1])
    weights = IntWeights(bits)
    if "A" in precision:
        yield Setting(precision, MEDQUANT, Recipe(weights=weights, activations=IntActivations(bits)))
        yield Setting(precision, PAPER, published(bits, "per-tensor"))
        return
    yield Setting(precision, MEDQUANT, Recipe(weights=weights))
    if bits < 8:
        yield from (Setting(precision, NEAREST, recipe) for _, _, recipe in recipes(("rtn",), (bits,), ("plain",)))
