"""What the benchmarks promise, measured: minutes each, run by name with `-m heavy`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medquant.bench import quality, solver
from medquant.errors import UserError

PROMISED = {8: (0.998, 0.005, 8.1), 4: (0.985, 0.01, 4.3), 3: (0.965, 0.02, 3.3), 2: (0.945, 0.03, 2.1)}
"""Bits -> least Dice against FP32, most loss of reference Dice, most effective bits."""


@pytest.mark.heavy
@pytest.mark.parametrize("bits", PROMISED)
def test_the_defaults_keep_the_masks(bits: int, test_data: Path) -> None:
    full, found = quality.run(
        data=test_data, folds=(2,), bits=(bits,), methods=("permutation-comq",), settings=("default",)
    )
    least, loss, most = PROMISED[bits]
    assert found["dsc_vs_fp32"] >= least
    assert found["dsc_vs_reference"] >= full["dsc_vs_reference"] - loss
    assert found["effective_bits"] <= most


@pytest.mark.heavy
def test_integer_activations_keep_the_masks(test_data: Path) -> None:
    full, *rows = quality.run(data=test_data, folds=(2,), activations=(8, 4))
    found = {(row["settings"], row["activation_bits"]): row for row in rows if row["method"] == "permutation-comq"}
    assert found["default", 8]["dsc_vs_fp32"] >= 0.992 - 0.0005  # the spread of another draw of positions
    assert found["default", 4]["dsc_vs_fp32"] >= 0.90
    assert found["default", 4]["dsc_vs_reference"] >= 0.97 * full["dsc_vs_reference"]
    for row in found.values():
        assert not row["simulated"] and row["dsc_by_kernels_vs_fp32"] == pytest.approx(row["dsc_vs_fp32"], abs=0.01)


@pytest.mark.heavy
def test_the_solver_is_fast_and_right() -> None:
    result = solver.run()
    assert result["speedup"] >= 250
    assert result["agreement_float64"] == 1.0
    assert result["agreement_float32"] >= 0.999
    assert result["extra_memory_mb"] <= 300


def test_codes_are_those_of_the_explicit_algorithm() -> None:
    assert solver.agreement(torch.float64, inputs=64, outputs=48, tokens=256) == (1.0, 1.0)


def test_every_row_has_a_recipe_of_its_own() -> None:
    plan = list(quality.recipes())
    assert len(plan) == 4 * 3 * 4
    assert len({recipe.to_json() for *_, recipe in plan}) == len(plan)
    plain = [recipe for how, _, recipe in plan if how == "plain"]
    assert all(set(recipe.weights_for({"a": 10, "b": 1000}).values()) == {recipe.weights} for recipe in plain)


@pytest.mark.parametrize("wrong", [{"folds": (3,)}, {"methods": ("magic",)}, {"settings": ("best",)}])
def test_an_unknown_choice_is_named(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Choose among"):
        quality.run(data=tmp_path, **wrong)
