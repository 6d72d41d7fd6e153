"""A run that is killed or stopped in the middle goes on where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_subject import a_subject, scores

from medquant.bench.medquanbench.plan import cells, settings
from medquant.bench.medquanbench.subjects import Subject
from medquant.bench.records import Records
from medquant.bench.running import Locally, run
from medquant.progress import Progress


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
