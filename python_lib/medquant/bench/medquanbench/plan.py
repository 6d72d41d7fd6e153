"""The cells of the benchmark: every model, recipe and case, each with a key that is its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medquant.activation_settings import IntActivations
from medquant.bench.cell import BenchmarkCell, Case
from medquant.bench.identity import code_version, fingerprint, key_of
from medquant.bench.medquanbench.measure import run_cell
from medquant.bench.medquanbench.subjects import Subject
from medquant.errors import UserError, one_of
from medquant.progress import Progress
from medquant.published_recipes import PUBLISHED, published
from medquant.recipe import METHODS, IntWeights, Recipe

FP32 = "FP32"
PRECISIONS = {"W8A8": 8, "W4A4": 4}
PRODUCT = "medquant"
"""Not a solver but the product's whole recipe: its calibration, static scales equalized over channels, the first and
the last layer at 8 bits; per tensor, so that ordinary integer kernels compute it."""
_DECIDING = tuple(
    f"bench/{name}.py" for name in ("allconvunet", "cell", "networks", "organ_case", "reference_boxes")
) + tuple(f"bench/medquanbench/{name}.py" for name in ("measure", "mini", "subjects"))


@dataclass(frozen=True)
class Setting:
    """A column of the paper's tables, and a method beside it; `recipe` None is FP32."""

    precision: str
    granularity: str = ""
    method: str = ""
    recipe: Recipe | None = None

    @property
    def data_free(self) -> bool:
        """Whether calibration decides nothing: weights rounded as they are, scales found on each input."""
        recipe = self.recipe
        return recipe is not None and not recipe.needs_moments and recipe.activations.mode == "dynamic"

    def describe(self) -> str:
        """In a few words: "W4A4 per-tensor rtn"."""
        return " ".join(filter(None, (self.precision, self.granularity, self.method)))


@dataclass(frozen=True, kw_only=True)
class Cell(BenchmarkCell):
    """One measurement: a network under a setting, on one case."""

    setting: Setting
    calibration: tuple[Case, ...]
    inputs: int
    """Slices or patches of each of these scans."""
    case_id: str

    def code(self) -> str:
        return code_of_cells()

    def measure(self, models: Path, *, device: str, threads: int, progress: Progress) -> dict[str, Any]:
        return run_cell(self, models, device=device, threads=threads, progress=progress)


def settings(
    precisions: Sequence[str] = tuple(PRECISIONS),
    granularities: Sequence[str] = tuple(PUBLISHED),
    methods: Sequence[str] = ("rtn", PRODUCT),
) -> list[Setting]:
    """FP32, then every precision, granularity and method. Raises `UserError` for an unknown one.

    The paper's method is "rtn"; another solver rounds the weights under the same granularities. `PRODUCT` comes once
    for each precision.
    """
    _refuse_unknown("precision", precisions, PRECISIONS)
    _refuse_unknown("granularity", granularities, PUBLISHED)
    _refuse_unknown("method", methods, (*METHODS, PRODUCT))
    found = [Setting(FP32)]
    for precision in precisions:
        bits = PRECISIONS[precision]
        for granularity in granularities:
            for method in (method for method in methods if method != PRODUCT):
                found.append(Setting(precision, granularity, method, published(bits, granularity, method)))
        if PRODUCT in methods:
            recipe = Recipe(weights=IntWeights(bits), activations=IntActivations(bits))
            found.append(Setting(precision, "per-tensor", PRODUCT, recipe))
    return found


def _refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"There is no {what} {name!r}. Choose {one_of(known)}.")


def cells(subjects: Sequence[Subject], chosen: Sequence[Setting], *, device: str = "cpu") -> Iterator[Cell]:
    """Every cell, those of one quantized model together; `device`: the one that they will be run on.

    Each network is loaded once, for what its numbers depend on: weights and options. Raises `UserError` for a network
    that cannot be loaded, and for two of one name.
    """
    names = [subject.network.name for subject in subjects]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"Two networks are called {twice}. Measure them one after the other, in folders of their own.")
    for subject in subjects:
        identity = subject.network.load("cpu").identity
        calibration = [fingerprint(case) for case in subject.calibration]
        cases = [(case, fingerprint(case)) for case in subject.cases]
        for setting in chosen:
            recipe = setting.recipe and setting.recipe.to_dict()
            inputs = 1 if setting.data_free else subject.inputs
            of_model = [subject.network.name, identity, code_of_cells(), torch.device(device).type]
            of_model += [recipe, calibration, inputs] if recipe else []
            for case, known in cases:
                yield Cell(
                    network=subject.network,
                    setting=setting,
                    calibration=subject.calibration,
                    inputs=inputs,
                    case=case,
                    case_id=known[:12],
                    model_key=key_of(of_model),
                    identity=key_of(identity),
                    key=key_of([*of_model, known]),
                )


def code_of_cells() -> str:
    """A hash of the code that decides a cell's numbers: the engine and what measures, not commands or tables."""
    return code_version(*_DECIDING)
