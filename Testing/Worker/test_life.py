"""The worker's life: it ends with its parent, leaves no scan behind, and lets others go first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from event_loop import needs_posix

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "medquant", "worker", "--folder", sys.argv[1]],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(child.pid, flush=True)
print(child.stdout.readline().decode(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Callable[[int], psutil.Process]]:
    """`orphan(signal)`: the worker of a parent that was ended by a signal, with a scan in its folder."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "exchange"], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    assert b'"ready"' in parent.stdout.readline()
    (tmp_path / "exchange" / "volume.npy").write_bytes(b"a patient")

    def end(number: int) -> psutil.Process:
        child = psutil.Process(pid)
        os.kill(parent.pid, number)
        return child

    yield end
    parent.kill()
    parent.wait(10)
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)


@needs_posix
def test_it_ends_with_its_parent_and_leaves_no_scan(orphan: Callable, tmp_path: Path) -> None:
    child = orphan(signal.SIGKILL)
    assert psutil.wait_procs([child], timeout=10)[1] == []
    assert not (tmp_path / "exchange").exists()


def _command(folder: Path, token: str = "") -> list[str]:
    named = ["--token", token] if token else []
    return [sys.executable, "-m", "medquant", "worker", *named, "--folder", str(folder)]


def _start(folder: Path, token: str = "", **options: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(_command(folder, token), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    assert json.loads(process.stdout.readline())["event"] == "ready"
    return process


def test_it_ends_where_its_input_does(tmp_path: Path) -> None:
    process = _start(tmp_path / "exchange")
    process.stdin.close()
    assert process.wait(10) == 0
    assert not (tmp_path / "exchange").exists()


def test_it_leaves_the_folder_to_the_worker_that_came_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "exchange"
    folder.mkdir()
    (folder / "token").write_text("first")
    first = _start(folder, "first")
    (folder / "token").write_text("second")
    second = _start(folder, "second")
    (folder / "volume.npy").write_bytes(b"a patient")
    first.stdin.close()
    assert first.wait(10) == 0
    assert (folder / "volume.npy").exists()
    late = subprocess.run(_command(folder, "first"), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert late.returncode == 0 and b"ready" not in late.stdout
    assert (folder / "volume.npy").exists()
    second.stdin.close()
    assert second.wait(10) == 0
    assert not folder.exists()


def test_shutdown_leaves_the_folder_to_its_owner(tmp_path: Path) -> None:
    process = _start(tmp_path / "exchange")
    process.stdin.write(b'{"method": "shutdown"}\n')
    process.stdin.flush()
    assert process.wait(10) == 0
    assert (tmp_path / "exchange" / "worker.log").exists()


@needs_posix
def test_a_ctrl_c_in_the_parents_terminal_is_not_meant_for_it(tmp_path: Path) -> None:
    process = _start(tmp_path / "exchange", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    process.stdin.write(b'{"id": 1, "method": "models"}\n')
    process.stdin.flush()
    while "result" not in (message := json.loads(process.stdout.readline())):
        assert message.get("event") == "heartbeat" or message.get("begun")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(10) == 0


@needs_posix
def test_others_go_first(tmp_path: Path) -> None:
    process = _start(tmp_path / "exchange")
    assert psutil.Process(process.pid).nice() > psutil.Process().nice()
    process.kill()
    process.wait(10)


@needs_posix
def test_whoever_shows_pictures_goes_first_and_has_a_core() -> None:
    code = (
        "import os; from medquant.worker import process; process._give_way(); import torch;"
        " print(torch.get_num_threads(), os.nice(0))"
    )
    for given, threads in (({}, max(1, (os.cpu_count() or 2) - 1)), ({"OMP_NUM_THREADS": "1"}, 1)):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found, niceness = map(int, done.stdout.split())
        assert found == threads and niceness >= 5
