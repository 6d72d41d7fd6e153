"""Processes that are killed in the middle: a run of this machine, and a worker of a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_subject import a_subject, scores

from medquant.bench.medquanbench.plan import Cell, cells, code_of_cells, settings
from medquant.bench.medquanbench.subjects import Subject
from medquant.bench.records import Records
from medquant.bench.running import Locally, run
from medquant.cache_place import benchmark_folder
from medquant.errors import UserError
from medquant.progress import Progress

NO_RAY = "Ray is not installed; install it first: pip install './python_lib[cluster]'"


def _command(subject: Subject, output: Path) -> list[str]:
    words = [sys.executable, "-m", "medquant", "bench", "medquanbench", "--output", output, "--threads", "1"]
    words += ["--model", subject.network.spec, "--weights", subject.network.weights, "--json", output.parent / "told"]
    for name, value in json.loads(subject.network.options).items():
        words += ["--option", f"{name}={json.dumps(value)}"]
    for case in (*subject.calibration, *subject.cases):
        words += ["--case", case.image, "--labels", case.labels]
    return [str(word) for word in words]


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, own_cache: Path) -> None:
    subject = replace(a_subject(tmp_path, count=5), inputs=8)  # as the command has it
    kept = tmp_path / "out" / "cells"
    with subprocess.Popen(_command(subject, tmp_path / "out"), stdout=subprocess.DEVNULL) as process:
        while len(list(kept.glob("*.json"))) < 5 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.json")}
    plan = list(cells([subject], settings()))
    assert 5 <= len(before) < len(plan)
    subprocess.run(_command(subject, tmp_path / "out"), check=True, stdout=subprocess.DEVNULL)
    after = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.json")}
    assert before.items() <= after.items() and len(after) == len(plan)
    rows, _ = run(plan, Records(tmp_path / "whole"), Locally(tmp_path / "models"), Progress())
    told = json.loads((tmp_path / "told").read_text(encoding="utf-8"))
    assert scores(told["rows"]) == scores(rows)


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no process can be interrupted here")
def test_a_run_that_is_stopped_says_that_it_goes_on(tmp_path: Path, own_cache: Path) -> None:
    command = _command(a_subject(tmp_path, count=5), tmp_path / "out")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "out" / "cells").glob("*.json")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Finished cells are kept" in said


@pytest.mark.heavy
def test_a_cluster_gives_the_same_when_a_worker_is_lost(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    import ray
    from ray.cluster_utils import Cluster

    from medquant.bench.cluster import OnRay

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # workers find what this process finds
    subject, kept = a_subject(tmp_path, count=6), benchmark_folder()
    plan = list(cells([subject], settings()))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
        rows: list[dict] = []
        made = []
        for _, outcome in OnRay(cluster.address)(plan, Progress()):
            assert not isinstance(outcome, UserError), outcome
            rows.append(outcome)
            if len(rows) == 8:
                made = list(kept.glob("*.safetensors"))
                cluster.remove_node(workers.pop(), allow_graceful=False)
                while sum(node["Alive"] for node in ray.nodes()) > 2:  # the head and the other worker
                    time.sleep(0.1)
        assert 0 < len(made) < len({cell.model_key for cell in plan}) - 1, "it was in the middle"
    finally:
        cluster.shutdown()
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == len(by_key) == len(plan)
    here, _ = run(plan, Records(tmp_path), Locally(tmp_path / "models"), Progress())
    assert scores([by_key[cell.key] for cell in plan]) == scores(here)


def test_where_no_cluster_is_that_is_told(subject: Subject) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    from medquant.bench.cluster import OnRay

    plan: list[Cell] = list(cells([subject], settings(precisions=())))
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
        list(OnRay("127.0.0.1:1")(plan, Progress()))


def test_where_ray_is_missing_that_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from medquant.bench.cluster import OnRay

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed"):
        list(OnRay("auto")(list(cells([subject], settings(precisions=()))), Progress()))


def test_a_worker_with_other_code_measures_nothing(subject: Subject) -> None:
    from medquant.bench.cluster import _run_anywhere

    (cell, _) = cells([subject], settings(precisions=()))
    outcome = _run_anywhere(cell, "cpu", 1, "of another version")
    assert isinstance(outcome, UserError) and "another version of medquant" in str(outcome)
    assert not isinstance(_run_anywhere(cell, "cpu", 1, code_of_cells()), UserError)


@pytest.mark.parametrize(
    ("threads", "gpus", "told"),
    [(5, 0.0, "largest has 4 and 0"), (2, 1.0, "largest has 1 and 2"), (1, 8.0, "largest has 1 and 2")],
    ids=["processors", "both", "gpus"],
)
def test_a_task_that_no_machine_can_hold_is_refused(threads: int, gpus: float, told: str) -> None:
    from medquant.bench.cluster import OnRay

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
    assert "--threads" in str(refused.value)
