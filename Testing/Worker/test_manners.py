"""The worker's manners: its output is clean, faults are told and survived, what is cancelled stops or is ended."""

from __future__ import annotations

import json
import signal
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from event_loop import EventLoop, needs_posix


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
