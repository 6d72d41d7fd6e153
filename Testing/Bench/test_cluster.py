"""Cells on a Ray cluster: the same rows where a worker is lost, and what is refused."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_subject import a_subject, scores
from small_tables import small_material, small_sam

from medquant.bench.cell import BenchmarkCell
from medquant.bench.cluster import OnRay, _run_anywhere
from medquant.bench.medquanbench.plan import Cell, cells, code_of_cells, settings
from medquant.bench.medquanbench.subjects import Subject
from medquant.bench.permutation_comq import cells as tables_cells
from medquant.bench.permutation_comq import contenders
from medquant.bench.permutation_comq.tables import table_rows
from medquant.bench.records import Records
from medquant.bench.running import Locally, run
from medquant.cache_place import benchmark_folder
from medquant.errors import Cancelled, UserError
from medquant.progress import Progress

LONGEST_SECONDS = 600.0
"""For all cells on the cluster, many times what they take."""
NO_RAY = "Ray is not installed; install it first: pip install './python_lib[cluster]'"


def _rows_with_a_worker_lost(plan: Sequence[BenchmarkCell], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rows, in the order of the plan, of two workers one of which is taken away after eight cells."""
    pytest.importorskip("ray", reason=NO_RAY)
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # workers find what this process finds
    rows: list[dict] = []
    made: set[Path] = set()
    before = set(benchmark_folder().glob("*.safetensors"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    deadline = time.monotonic() + LONGEST_SECONDS
    in_time = Progress(cancelled=lambda: time.monotonic() > deadline)
    try:
        workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
        for _, outcome in OnRay(cluster.address)(plan, in_time):
            assert not isinstance(outcome, UserError), outcome
            rows.append(outcome)
            if len(rows) == 8:
                made = set(benchmark_folder().glob("*.safetensors")) - before
                cluster.remove_node(workers.pop(), allow_graceful=False)
                while sum(node["Alive"] for node in ray.nodes()) > 2:  # the head and the other worker
                    assert time.monotonic() < deadline, "the worker that was taken away is still said to be alive"
                    time.sleep(0.1)
    except Cancelled:
        pytest.fail(f"Only {len(rows)} of {len(plan)} cells came in {LONGEST_SECONDS:.0f} s.")
    finally:
        cluster.shutdown()
    assert 0 < len(made) < len({cell.model_key for cell in plan}) - 1, "it was in the middle"
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == len(by_key) == len(plan)
    return [by_key[cell.key] for cell in plan]


@pytest.mark.heavy
def test_medquanbench_is_the_same_when_a_worker_is_lost(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = list(cells([a_subject(tmp_path, count=6)], settings()))
    there = _rows_with_a_worker_lost(plan, monkeypatch)
    here, _ = run(plan, Records(tmp_path), Locally(tmp_path / "models"), Progress())
    assert scores(there) == scores(here)


@pytest.mark.heavy
def test_tables_of_permutation_comq_are_the_same_when_a_worker_is_lost(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tiny_sam: Callable[[], Any]
) -> None:
    material = small_material(tmp_path, count=6)
    chosen = contenders.settings(("fp32", "rtn", "comq", "layer", "rows"), bits=(2, 4))
    plan = tables_cells.cells(small_sam(tmp_path, tiny_sam), material, chosen, device="cpu")
    there = _rows_with_a_worker_lost(plan, monkeypatch)
    here, _ = run(plan, Records(tmp_path), Locally(tmp_path / "models"), Progress())
    assert there == here
    rows = table_rows(there, chosen, material)
    assert rows == table_rows(here, chosen, material) and len(rows) == len(chosen)
    assert len({row.dsc for row in rows}) > 3, "methods can be told apart"


def test_where_no_cluster_is_that_is_told(subject: Subject) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    plan: list[Cell] = list(cells([subject], settings(precisions=())))
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
        list(OnRay("127.0.0.1:1")(plan, Progress()))


def test_where_ray_is_missing_that_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed"):
        list(OnRay("auto")(list(cells([subject], settings(precisions=()))), Progress()))


def test_a_worker_with_other_code_measures_nothing(subject: Subject) -> None:
    (cell, _) = cells([subject], settings(precisions=()))
    outcome = _run_anywhere(cell, "cpu", 1, "of another version")
    assert isinstance(outcome, UserError) and "another version of medquant" in str(outcome)
    assert not isinstance(_run_anywhere(cell, "cpu", 1, code_of_cells()), UserError)


def test_a_worker_with_other_weights_measures_nothing(
    tmp_path: Path, own_cache: Path, tiny_sam: Callable[[], Any]
) -> None:
    for name in ("unet", "sam"):
        (tmp_path / name).mkdir()
    subject, sam = a_subject(tmp_path / "unet", count=2), small_sam(tmp_path / "sam", tiny_sam)
    chosen = contenders.settings(("fp32", "rtn"), bits=(2,))
    plan: list[BenchmarkCell] = [
        *cells([subject], settings(("W4A4",), ("adaptive",), ("rtn",))),
        *tables_cells.cells(sam, small_material(tmp_path / "sam", count=2), chosen, device="cpu"),
    ]
    file, of_sam = Path(str(subject.network.weights)), Path(sam.spec) / "model.safetensors"
    state = torch.load(file, weights_only=True)
    torch.save({name: 2 * value for name, value in state.items()}, file)
    safetensors.torch.save_file(
        {name: 2 * value for name, value in safetensors.torch.load_file(of_sam).items()}, of_sam, {"format": "pt"}
    )
    assert len(plan) == 4
    for cell in plan:
        outcome = _run_anywhere(cell, "cpu", 1, cell.code())
        assert isinstance(outcome, UserError) and f"has other weights of {cell.network.name} than" in str(outcome)


@pytest.mark.parametrize(
    ("threads", "gpus", "told"),
    [(5, 0.0, "largest has 4 and 0"), (2, 1.0, "largest has 1 and 2"), (1, 8.0, "largest has 1 and 2")],
    ids=["processors", "both", "gpus"],
)
def test_a_task_that_no_machine_can_hold_is_refused(threads: int, gpus: float, told: str) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        {"Alive": True, "Resources": {}},
    ]
    OnRay("auto", gpus=0.0, threads=4).require_room(nodes)
    OnRay("auto", gpus=2.0, threads=1).require_room(nodes)
    with pytest.raises(UserError, match=told) as refused:
        OnRay("auto", gpus, threads).require_room(nodes)
    assert "in the cluster now" in str(refused.value) and "--threads" in str(refused.value)
