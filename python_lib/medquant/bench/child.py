"""A step of a benchmark in a process of its own, so that its memory is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from medquant.errors import UserError

POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Child:
    """A process that ended well."""

    printed: str
    peak_memory_mb: float
    """Its largest resident memory."""


def run_child(
    command: Sequence[str], folder: Path, check: Callable[[], None], *, name: str, threads: int | None = None
) -> Child:
    """Run a process to its end, or until `check` raises; what it prints goes through files in `folder`.

    `name`: its subject in an error. Raises `UserError` where it cannot be started or fails.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    printed, errors = folder / "printed.txt", folder / "errors.txt"
    with printed.open("w") as out, errors.open("w") as err:
        try:
            child = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        except OSError as error:
            raise UserError(f"{command[0]} cannot be started ({error.strerror}). Give another one.") from error
        try:
            peak = _watched(child, check)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode:
        last = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise UserError(f"{name} failed ({''.join(last)}). Leave it out, or see what it needs.")
    return Child(printed.read_text(errors="replace"), peak)


def run_step(
    module: str, job: dict[str, Any], folder: Path, check: Callable[[], None], *, name: str
) -> tuple[Any, float]:
    """Let `python -m module JOB.json` do a job: what it answers, in the file that the job names, and its memory in MB.

    `job["threads"]`: how many it may use; None: as it likes. Raises `UserError` where it fails or does not answer.
    """
    file, answer = folder / "job.json", folder / "answer.json"
    answer.unlink(missing_ok=True)
    file.write_text(json.dumps({**job, "answer": str(answer)}), encoding="utf-8")
    command = [sys.executable, "-m", module, str(file)]
    child = run_child(command, folder, check, name=name, threads=job.get("threads"))
    if not answer.is_file():
        raise UserError(f"{name} gave no answer. See whether the memory sufficed.")
    return json.loads(answer.read_text(encoding="utf-8")), child.peak_memory_mb


def _watched(child: subprocess.Popen[bytes], check: Callable[[], None]) -> float:
    """Wait for a process; its largest resident memory in MB."""
    peak, process = 0.0, psutil.Process(child.pid)
    while child.poll() is None:
        check()
        try:
            peak = max(peak, process.memory_info().rss / 1e6)
        except psutil.Error:  # it ends just now
            break
        time.sleep(POLL_SECONDS)
    child.wait()
    return peak
