"""The worker's life: it ends with its parent, leaves no scan behind, and keeps its output clean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from event_loop import EventLoop

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")

NOISY = """
import ctypes, os, subprocess, sys, time, warnings
from medquant.worker.service import Service

def noise(params, work):
    print("printed")
    sys.__stdout__.write("written to the first stdout\\n")
    os.write(1, b"from below Python\\n")
    subprocess.run([sys.executable, "-c", "print('a child')"])
    warnings.warn("a warning")
    assert input_is_empty()
    return {"quiet": True}

def input_is_empty():
    return sys.stdin.read() == "" and os.read(0, 10) == b""

def memory(params, work):
    return {"size": len(bytearray(1 << 62))}

def torch_memory(params, work):
    import torch

    return {"size": len(torch.empty(1 << 58))}

def fault(params, work):
    raise KeyError("volume")

def odd(params, work):
    return {"nan": float("nan"), "inf": [float("inf")], "path": __import__("pathlib").Path("a")}

def deaf(params, work):
    while not (params.get("listens") and work.cancelled):
        time.sleep(0.05)
    time.sleep(params.get("longer", 0))
    open(work.folder / "stopped", "w").close()
    return {}

def burn(params, work):
    work.part().report(0.1, "Burning")
    while True:
        pass

def compile(params, work):
    from medquant.background import stoppable_call

    return stoppable_call(lambda: burn({}, work), work.part())

def export(params, work):
    import pathlib, tempfile
    from medquant.worker.unfinished import writing_in

    target = pathlib.Path(params["folder"])
    with writing_in(target, work.folder):
        beside = tempfile.mkdtemp(prefix=".writing-", dir=target)
        open(beside + "/model.onnx", "w").close()
        burn(params, work)

def pool(params, work):
    from concurrent.futures import ThreadPoolExecutor

    METHODS["kept"] = kept = ThreadPoolExecutor(2)  # as libraries keep theirs
    kept.submit(time.sleep, 0.3)
    while True:
        work.part().report(0.1, "Working")
        work.part().check()
        time.sleep(0.01)

def torn_report(params, work):
    from types import SimpleNamespace

    from medquant.evaluation import report
    from medquant.files import atomic_path
    from medquant.worker.methods import comparing

    def write(path, *_, **__):
        with atomic_path(path) as temporary:
            temporary.write_text("a patient")
            burn(params, work)

    model = SimpleNamespace(name="")
    report.write_report, comparing._axis, comparing._edits = write, lambda *_: 0, lambda *_: []
    comparing.wording = SimpleNamespace(short_names=lambda _: {})
    comparing._compared = lambda *_: (SimpleNamespace(summary=[model] * 2), [SimpleNamespace(volume=None)] * 2)
    return comparing.report(params, work)

def unsendable(params, work):
    return {"thing": object()}

def exiting(params, work):
    raise SystemExit(3)

def freeze(params, work):
    ctypes.PyDLL(None).sleep(params["seconds"])  # keeps the interpreter's lock
    return {}

METHODS = dict(globals())
found = Service._function
Service._function = lambda self, name: METHODS.get(name) or found(self, name)
from medquant.cli import main
main()
"""


@pytest.fixture
def worker(loop: EventLoop) -> EventLoop:
    """The real worker with some methods of bad manners."""
    loop.made = loop.engine(sys.executable, "-c", NOISY, "worker")
    return loop


def test_its_output_is_its_own(worker: EventLoop) -> None:
    seen: list[bytes] = []
    engine = worker.made
    on_bytes = engine._on_bytes
    engine._on_bytes = lambda data: (seen.append(data), on_bytes(data))
    assert worker.result(engine, "noise") == {"quiet": True}
    for line in b"".join(seen).splitlines():
        assert isinstance(json.loads(line), dict)
    log = Path(engine.log).read_text()
    for words in ("printed", "written to the first stdout", "from below Python", "a child"):
        assert words in log


@pytest.mark.parametrize("method", ["memory", "torch_memory"])
def test_lack_of_memory_is_told_and_survived(worker: EventLoop, method: str) -> None:
    error = worker.error(worker.made, method)
    assert error["kind"] == "memory"
    assert "not enough memory" in error["message"] and "smaller model" in error["message"]
    assert worker.result(worker.made, "noise") == {"quiet": True}
    assert worker.made.starts == 1


FAULTS = [("fault", "KeyError"), ("no such method", "no such method"), ("unsendable", "cannot be sent")]


@pytest.mark.parametrize(("method", "words"), FAULTS)
def test_a_fault_is_told_with_its_log(worker: EventLoop, method: str, words: str) -> None:
    error = worker.error(worker.made, method)
    assert error["kind"] == "internal"
    assert words in error["message"] and "Traceback" not in error["message"]
    assert "Traceback" in Path(error["log"]).read_text()
    assert worker.result(worker.made, "odd")


def test_even_an_exit_is_an_answer(worker: EventLoop) -> None:
    assert worker.error(worker.made, "exiting")["kind"] == "internal"
    assert worker.result(worker.made, "noise") == {"quiet": True}


def test_numbers_that_json_does_not_know_become_null(worker: EventLoop) -> None:
    assert worker.result(worker.made, "odd") == {"nan": None, "inf": [None], "path": "a"}


NONSENSE = (
    b"nonsense",
    b"[]",
    b"null",
    b"3",
    b"",
    b"\xff\x00",
    b"[" * 100000,
    b'{"id": 3}',
    b'{"method": "cancel", "params": {"id": 77}}',
    b'{"method": "cancel"}',
    b'{"method": "cancel", "params": {"id": []}}',
    b'{"method": [], "id": {}}',
    b'{"method": "odd", "params": 3, "id": 5}',
    b'{"method": "odd", "id": Infinity}',
)


def test_nonsense_is_not_answered_but_told(worker: EventLoop) -> None:
    engine = worker.made
    worker.result(engine, "noise")
    for line in NONSENSE:
        engine._transport.send(line + b"\n")
    assert worker.result(engine, "noise") == {"quiet": True}
    assert engine.starts == 1


def test_cancelling_is_answered_when_the_work_has_stopped(worker: EventLoop) -> None:
    engine = worker.made
    worker.result(engine, "noise")
    busy = worker.ask(engine, "deaf", {"listens": True, "longer": 0.2})
    waiting = worker.ask(engine, "noise")
    worker.wait(lambda: busy.request.begun)
    waiting.request.cancel()
    assert worker.wait(lambda: waiting.done) < 2.0
    assert not busy.done
    busy.request.cancel()
    worker.wait(lambda: busy.done)
    assert (engine.folder / "stopped").exists()
    assert busy.error["kind"] == waiting.error["kind"] == "cancelled"
    assert worker.result(engine, "noise") == {"quiet": True}
    assert engine.starts == 1, "its warmth is lost"


def test_a_pool_that_a_library_keeps_does_not_cost_the_process(worker: EventLoop) -> None:
    engine = worker.made
    worker.result(engine, "noise")
    busy = worker.ask(engine, "pool")
    worker.wait(lambda: busy.progress)
    busy.request.cancel()
    worker.wait(lambda: busy.done)
    assert busy.error["kind"] == "cancelled"
    assert worker.result(engine, "noise") == {"quiet": True}
    assert engine.starts == 1, "its warmth is lost"


@needs_posix
@pytest.mark.parametrize("method", ["burn", "compile"])
def test_work_that_does_not_stop_is_ended(worker: EventLoop, method: str) -> None:
    """`burn` never looks; `compile` says that it stopped while a thread of it goes on."""
    engine = worker.made
    (engine.folder / "masks.npy").write_bytes(b"masks")
    worker.result(engine, "noise")
    busy = worker.ask(engine, method)
    worker.wait(lambda: busy.progress)
    used = psutil.Process(worker.processes[0].pid)
    busy.request.cancel()
    assert worker.wait(lambda: busy.done) < 3.0
    assert busy.error["kind"] == "cancelled"
    psutil.wait_procs([used], timeout=10)
    assert not used.is_running() or used.status() == psutil.STATUS_ZOMBIE, "it still computes"
    assert engine.running and engine.starts == 2
    began = time.monotonic()
    assert worker.result(engine, "noise") == {"quiet": True}
    assert time.monotonic() - began < 20.0
    assert (engine.folder / "masks.npy").read_bytes() == b"masks"


@needs_posix
def test_an_export_that_is_ended_leaves_nothing_half_written(worker: EventLoop, tmp_path: Path) -> None:
    for name in (".writing-of-somebody-else", "an export"):
        (tmp_path / name).mkdir()
    export = worker.ask(worker.made, "export", {"folder": str(tmp_path)})
    worker.wait(lambda: export.progress)
    assert len(list(tmp_path.iterdir())) == 3
    export.request.cancel()
    worker.wait(lambda: export.done)
    worker.result(worker.made, "noise")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-of-somebody-else", "an export"]


@needs_posix
@pytest.mark.parametrize("end", ["cancelled", "closed"])
def test_a_report_that_is_ended_leaves_nothing_half_written(worker: EventLoop, tmp_path: Path, end: str) -> None:
    engine = worker.made
    report = worker.ask(engine, "torn_report", {"path": str(tmp_path / "report.html")})
    worker.wait(lambda: report.progress and list(tmp_path.glob(".writing-*/report.html")))
    if end == "closed":
        engine.close()
    else:
        report.request.cancel()
        worker.wait(lambda: report.done)
        worker.result(engine, "noise")
    assert list(tmp_path.iterdir()) == []


def test_quick_questions_do_not_wait_for_long_work(worker: EventLoop) -> None:
    busy = worker.ask(worker.made, "deaf", {"listens": True})
    models = worker.result(worker.made, "models")["models"]
    assert [one["spec"] for one in models[:4]] == ["embedded", "embedded-nnunet", "embedded-unetr", "medsam"]
    assert not busy.done
    busy.request.cancel()
    worker.wait(lambda: busy.done)


def test_it_beats_every_second_while_it_works(worker: EventLoop) -> None:
    engine = worker.made
    heard: list[float] = []
    on_message = engine._on_message

    def listen(message: dict) -> None:
        if message.get("event") == "heartbeat":
            heard.append(time.monotonic())
        on_message(message)

    engine._on_message = listen
    busy = worker.ask(engine, "deaf", {"listens": True})
    worker.wait(lambda: len(heard) >= 4, 20)
    assert max(later - before for before, later in pairwise(heard[1:])) < 3.0
    busy.request.cancel()
    worker.wait(lambda: busy.done)


@needs_posix
def test_a_frozen_interpreter_is_ended(worker: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    from MedQuantSlicerLib import engine_process

    monkeypatch.setattr(engine_process, "SILENT_SECONDS", 2.0)
    worker.result(worker.made, "freeze", {"seconds": 4})  # the first time it may be importing
    frozen = worker.ask(worker.made, "freeze", {"seconds": 600})
    worker.wait(lambda: frozen.done, 20)
    assert frozen.error["kind"] == "engine"
    assert worker.processes[0].wait(10) == -signal.SIGKILL
    assert worker.result(worker.made, "noise") == {"quiet": True}


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
