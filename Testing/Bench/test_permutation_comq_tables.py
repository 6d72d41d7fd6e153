"""Tables 1 and 2 of Permutation-COMQ out of their cells: what decides a cell, what a row is, what is left out."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_tables import small_material, small_sam

from medquant.bench.networks import NamedNetwork
from medquant.bench.permutation_comq.cells import Cell, cells
from medquant.bench.permutation_comq.contenders import CONTENDERS, settings
from medquant.bench.permutation_comq.material import Material, scores
from medquant.bench.permutation_comq.tables import table_rows
from medquant.bench.records import Records
from medquant.bench.running import Locally, failures, run
from medquant.errors import UserError
from medquant.imaging.reading import read_volume
from medquant.progress import Progress
from medquant.quantize import quantize


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, tiny_sam: Callable[[], Any]) -> NamedNetwork:
    """A tiny SAM in its folder."""
    return small_sam(tmp_path_factory.mktemp("network"), tiny_sam)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A scan that calibrates and two that test."""
    return small_material(tmp_path_factory.mktemp("material"))


def _plan(network: NamedNetwork, material: Material, device: str = "cpu", **chosen: Any) -> list[Cell]:
    return cells(network, material, settings(**chosen), device=device)


def _measured(plan: list[Cell], folder: Path) -> list[dict[str, Any]]:
    rows, failed = run(plan, Records(folder), Locally(folder / "models"), Progress())
    assert not failed
    return rows


def test_every_cell_has_a_key_of_its_own_that_stays(network: NamedNetwork, material: Material) -> None:
    plan = _plan(network, material)
    assert len(plan) == len({cell.key for cell in plan}) == 2 * (1 + 6 * 3)
    assert len({cell.model_key for cell in plan}) == 1 + 6 * 3
    assert [cell.key for cell in plan] == [cell.key for cell in _plan(network, material)]
    assert not {cell.key for cell in plan} & {cell.key for cell in _plan(network, material, device="cuda")}
    assert plan == _plan(network, material, bits=(2, 4, 8, 2), methods=[*CONTENDERS, "fp32"]), "none comes twice"


def test_keys_know_what_calibrates_and_what_tests(network: NamedNetwork, material: Material, tmp_path: Path) -> None:
    own = small_material(tmp_path)
    before = _plan(network, own, bits=(4,))
    os.utime(own.calibration_path, ns=(1, 1))
    recalibrated = _plan(network, own, bits=(4,))
    assert all((a.key == b.key) == (a.setting.recipe is None) for a, b in zip(before, recalibrated, strict=True))
    os.utime(own.cases[0].labels, ns=(1, 1))
    other = _plan(network, own, bits=(4,))
    assert all((a.key == b.key) == (a.case != own.cases[0]) for a, b in zip(recalibrated, other, strict=True))
    assert [a.model_key for a in recalibrated] == [b.model_key for b in other]


def test_a_row_is_what_the_quantized_model_scores(network: NamedNetwork, material: Material, tmp_path: Path) -> None:
    methods = ("fp32", "rtn", "layer", "rows", "default")
    chosen = settings(methods, bits=(2,))
    rows = table_rows(_measured(cells(network, material, chosen, device="cpu"), tmp_path), chosen, material)
    assert tuple(row.method for row in rows) == methods
    original = network.load("cpu")
    for row, setting in zip(rows, chosen, strict=True):
        model = original
        if setting.recipe is not None:
            model = quantize(original, read_volume(material.calibration_path), recipe=setting.recipe)
            assert row.effective_bits == model.report.effective_bits
        by_organ = {case.name: scores(model, case, Progress()) for case in material.cases}
        assert row.by_organ == by_organ
        pairs = [pair for organs in by_organ.values() for pair in organs.values()]
        assert row.dsc == pytest.approx(sum(dsc for dsc, _ in pairs) / len(pairs))
        assert row.nsd == pytest.approx(sum(nsd for _, nsd in pairs) / len(pairs))
    assert len({row.dsc for row in rows}) > 3, "methods can be told apart"


def test_cells_that_were_measured_stay_and_the_order_does_not_matter(
    network: NamedNetwork, material: Material, tmp_path: Path
) -> None:
    plan = _plan(network, material, methods=("fp32", "rtn", "layer"), bits=(2,))
    _measured(plan[:3], tmp_path / "out")  # the second case of RTN is not there yet
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()}
    assert len(kept) == 3
    rows = _measured(plan, tmp_path / "out")
    assert kept.items() <= {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/cells").iterdir()}.items()
    backwards = _measured([pickle.loads(pickle.dumps(cell)) for cell in reversed(plan)], tmp_path / "other")
    assert _plain(rows) == _plain(backwards[::-1])


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as their records have them: pairs are lists there."""
    return [row | {"organs": {name: list(pair) for name, pair in row["organs"].items()}} for row in rows]


def test_a_row_that_lacks_a_case_is_left_out(network: NamedNetwork, material: Material, tmp_path: Path) -> None:
    chosen = settings(methods=("fp32", "rtn"), bits=(2,))
    broken = replace(material.cases[1], name="broken", labels=tmp_path / "none.nii.gz")
    with_broken = replace(material, cases=[material.cases[0], broken])
    plan = cells(network, with_broken, chosen, device="cpu")
    rows, failed = run(plan, Records(tmp_path), Locally(tmp_path / "models"), Progress())
    assert len(rows) == 2 and table_rows(rows, chosen, with_broken) == []
    (told,) = failures(plan, failed)
    assert told.startswith("sam, broken (2 of its 4 cells).") and "none.nii.gz" in told
    assert [row.method for row in table_rows(rows, chosen, replace(material, cases=material.cases[:1]))] == [
        "fp32",
        "rtn",
    ]


def test_references_without_any_organ_are_told(network: NamedNetwork, material: Material, tmp_path: Path) -> None:
    bones = replace(
        material, cases=[replace(case, structures=dict.fromkeys((1, 2, 3), "bone")) for case in material.cases]
    )
    chosen = settings(methods=("fp32",))
    rows = _measured(cells(network, bones, chosen, device="cpu"), tmp_path)
    with pytest.raises(UserError, match="No reference shows liver"):
        table_rows(rows, chosen, bones)
