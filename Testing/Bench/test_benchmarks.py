"""What the benchmarks promise, measured: minutes each, run by name with `-m heavy`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medquant.bench import allconvunet, quality, sensitivity_time, solver
from medquant.bench.organ_case import OrganCase, logits_of
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.torch_program import from_module
from medquant.progress import ProgressEvent

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


def test_the_map_of_layers_is_timed_whole() -> None:
    (row,) = sensitivity_time.run(networks=("embedded",))
    assert row["cells"] == 3 * row["layers"] > 0 and row["view"] == "one-at-a-time"
    assert 0 < row["first_cell_seconds"] < row["seconds"]
    with pytest.raises(UserError, match="embedded, nnunet, sam-vit-b"):
        sensitivity_time.run(networks=("vit",))


def test_every_row_has_a_recipe_of_its_own() -> None:
    plan = list(quality.recipes())
    assert len(plan) == 4 * 3 * 4
    assert len({recipe.to_json() for *_, recipe in plan}) == len(plan)
    plain = [recipe for how, _, recipe in plan if how == "plain"]
    assert all(set(recipe.weights_for({"a": 10, "b": 1000}).values()) == {recipe.weights} for recipe in plain)


def test_unpruned_is_the_same_bits_everywhere_with_all_channels() -> None:
    """The word of `bench autoquant` for the same bits without switched-off channels, "uniform", is another."""
    for _, _, recipe in quality.recipes(settings=("unpruned",)):
        assert not recipe.drop_dead_channels
        assert set(recipe.weights_for({"a": 10, "b": 1000, "c": 10}).values()) == {recipe.weights}
    with pytest.raises(UserError, match="unpruned"):
        quality.run(data=Path(), settings=("uniform",))


@pytest.mark.parametrize("wrong", [{"folds": (3,)}, {"methods": ("magic",)}, {"settings": ("best",)}])
def test_an_unknown_choice_is_named(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Choose among"):
        quality.run(data=tmp_path, **wrong)


@pytest.fixture
def small_case(monkeypatch: pytest.MonkeyPatch) -> OrganCase:
    """Another network and other inputs in the place of the real ones, by the same protocol."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 3, 1)]
    model = from_module(nn.Sequential(*layers).eval(), name="small", roi_size=(16, 16, 16))
    scan = torch.randn(16, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    cube = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    full = logits_of(model.network, cube).argmax(1)[0]
    case = OrganCase(model, Volume(scan, np.diag([1.0, 1.0, 2.0, 1.0])), cube, full, full, (1, 2))
    monkeypatch.setattr(quality.OrganCase, "all", lambda *_: iter([case]))
    monkeypatch.setattr(allconvunet, "SIDE", 24)  # of the inputs that calibrate
    return case


def test_float_inputs_are_counted_and_their_search_is_seen(small_case: OrganCase, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    _, *rows = quality.run(data=tmp_path, folds=(2,), activations=(8,), float_share=0.5, progress=told.append)
    found = {row["settings"]: (row["floating_layers"], row["layers"]) for row in rows}
    assert found["default"] == found["published"] == (0, 3) and 0 < found["float inputs"][0] < 3
    search = [
        event.fraction for event in told if "(float inputs)" in event.message and "Inputs that matter" in event.message
    ]
    assert len(search) > 3 and search == sorted(search) and search[-1] > search[0]
    assert all(a.fraction <= b.fraction for a, b in pairwise(told))


def test_no_share_is_no_row_and_no_search(small_case: OrganCase, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    _, *rows = quality.run(data=tmp_path, folds=(2,), activations=(8,), float_share=0.0, progress=told.append)
    assert [row["settings"] for row in rows] == ["default", *["published"] * 3]
    assert told and not any("Inputs that matter" in event.message for event in told)


@pytest.mark.parametrize("share", [1.0, -0.2])
def test_a_share_is_a_part(share: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        quality.run(data=tmp_path, activations=(8,), float_share=share)
