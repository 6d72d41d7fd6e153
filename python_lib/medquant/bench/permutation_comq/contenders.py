"""The methods of Tables 1 and 2: their recipes, and what the paper prints for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from medquant.errors import UserError, one_of
from medquant.granularity import PerChannel, PerGroup, PerTensor, WeightGranularity
from medquant.published_recipes import PLAIN
from medquant.recipe import IntWeights, Method, Recipe


def _alike(method: Method, bits: int, grain: WeightGranularity = PerChannel(), scope: str = "rows") -> Recipe:  # noqa: B008 - frozen
    """The paper's terms: an integer zero point, the same bits in every layer, the solver and nothing else."""
    return Recipe(
        weights=IntWeights(bits, grain, zero_point="integer"),
        method=method,
        scope=scope,
        ends_bits=None,
        extra_bits=0.0,
        drop_dead_channels=False,
        calibration=PLAIN,
    )


@dataclass(frozen=True)
class Contender:
    """A method as the tables name it: its recipe by bits, and what the paper prints for MedSAM."""

    title: str
    tables: tuple[int, ...]
    recipe: Callable[[int], Recipe | None]
    published: dict[int, tuple[float, float]]
    """Bits -> DSC and NSD in per cent (Tables 1 and 2)."""


_THEIRS = {2: (86.939, 78.935), 4: (93.434, 93.089), 8: (93.615, 93.204)}
CONTENDERS = {
    "fp32": Contender("FP32", (1,), lambda bits: None, {32: (93.505, 92.969)}),
    "rtn": Contender(
        "RTN", (1,), partial(_alike, "rtn"), {2: (29.79, 30.221), 4: (90.526, 86.755), 8: (93.499, 92.936)}
    ),
    "comq": Contender(
        "COMQ", (1, 2), partial(_alike, "comq"), {2: (71.8, 53.733), 4: (91.874, 90.011), 8: (93.486, 92.938)}
    ),
    "per-layer": Contender(
        "COMQ, a scale for each layer",
        (2,),
        partial(_alike, "comq", grain=PerTensor()),
        {2: (74.46, 54.825), 4: (55.439, 43.685), 8: (93.282, 92.461)},
    ),
    "layer": Contender("Permutation-COMQ (b)", (1, 2), partial(_alike, "permutation-comq", scope="layer"), _THEIRS),
    "rows": Contender("Permutation-COMQ (d)", (1, 2), partial(_alike, "permutation-comq", grain=PerGroup(64)), _THEIRS),
    "default": Contender("medquant's default", (1,), lambda bits: Recipe(weights=IntWeights(bits)), {}),
}


@dataclass(frozen=True)
class Setting:
    """A method at one width; `recipe` None is FP32."""

    method: str
    bits: int
    recipe: Recipe | None = None

    def describe(self) -> str:
        """In a few words: "RTN, 4 bits"."""
        title = CONTENDERS[self.method].title
        return title if self.recipe is None else f"{title}, {self.bits} bits"


def settings(methods: Sequence[str] = tuple(CONTENDERS), bits: Sequence[int] = (2, 4, 8)) -> list[Setting]:
    """Every method at every width, FP32 once. Raises `UserError` for an unknown method."""
    odd = [name for name in methods if name not in CONTENDERS]
    if odd:
        raise UserError(f"Unknown method {odd[0]!r}. Choose {one_of(CONTENDERS)}.")
    found = ((name, width) for name in methods for width in (bits if name != "fp32" else (32,)))
    return [Setting(name, width, CONTENDERS[name].recipe(width)) for name, width in dict.fromkeys(found)]
