"""The engine's process from its user's side: answered, killed, hung, out of memory, talking nonsense, slow to stop."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from event_loop import EventLoop, needs_posix
from MedQuantSlicerLib import engine_process, messages
from MedQuantSlicerLib.engine_process import EngineProcess

SCRIPT = """
import json, os, sys, time
def say(**message):
    sys.stdout.write(json.dumps(message) + "\\n")
    sys.stdout.flush()
def ready():
    say(event="ready", pid=os.getpid())
folder = sys.argv[-1]
def first_time(name):
    if os.path.exists(os.path.join(folder, name)):
        return False
    open(os.path.join(folder, name), "w").close()
    return True
{body}
for line in sys.stdin:
    asked = json.loads(line)
    method, params, id = asked["method"], asked.get("params") or {{}}, asked.get("id")
    if method == "echo":
        say(id=id, result=params)
    {methods}
"""


def _engine(loop: EventLoop, methods: str = "", body: str = "ready()") -> EngineProcess:
    """A process that answers `echo` and `methods` ("elif ...")."""
    return loop.engine(sys.executable, "-c", SCRIPT.format(body=body, methods=methods.replace("\n", "\n    ")))


def test_nothing_is_started_before_something_is_asked(loop: EventLoop) -> None:
    engine = _engine(loop)
    assert not engine.running and engine.starts == 0 and engine.log == ""
    assert loop.result(engine, "echo", {"a": [1, "\N{GREEK SMALL LETTER MU}"]}) == {
        "a": [1, "\N{GREEK SMALL LETTER MU}"]
    }
    assert engine.running and engine.starts == 1


def test_answers_find_their_questions_whatever_their_order(loop: EventLoop) -> None:
    kept = """elif method == "keep":
    kept = id
elif method == "swap":
    say(id=id, result={"n": 2})
    say(id=kept, result={"n": 1})"""
    engine = _engine(loop, kept)
    first, second = loop.ask(engine, "keep"), loop.ask(engine, "swap")
    loop.wait(lambda: first.done and second.done, 20)
    assert (first.result, second.result) == ({"n": 1}, {"n": 2})


def test_garbage_on_its_output_is_passed_over(loop: EventLoop) -> None:
    noise = """elif method == "noise":
    sys.stdout.write("Downloading 100%\\n\\n[1, 2]\\n{\\"id\\": [], \\"result\\": 3}\\nnull\\n{broken\\n")
    sys.stdout.flush()
    os.write(1, bytes(range(128, 256)) + b"\\n")
    say(id=999, result={})
    say(id=id, result=5)
    say(id=id, progress="soon")
    sys.stdout.write('{"id": %d, "re' % id)
    sys.stdout.flush()
    time.sleep(0.2)
    sys.stdout.write('sult": {"fine": 1}}\\nmore')
    sys.stdout.flush()"""
    engine = _engine(loop, noise)
    assert loop.result(engine, "noise") == {"fine": 1}
    assert engine.starts == 1


def test_a_killed_process_fails_its_request_and_starts_again(loop: EventLoop) -> None:
    engine = _engine(loop, 'elif method == "crash":\n    os._exit(3)')
    restarts = []
    engine.restarted = lambda: restarts.append(engine.starts)
    error = loop.error(engine, "crash")
    assert error["kind"] == "engine" and error["message"] == messages.ENGINE_ENDED
    assert Path(error["log"]).is_file()
    assert not engine.running
    assert loop.result(engine, "echo", {"a": 1}) == {"a": 1}
    assert restarts == [2]


@needs_posix
def test_a_process_ended_by_the_system_is_told_as_lack_of_memory(loop: EventLoop) -> None:
    engine = _engine(loop, 'elif method == "grow":\n    os.kill(os.getpid(), 9)')
    error = loop.error(engine, "grow")
    assert (error["kind"], error["message"]) == ("memory", messages.ENGINE_OUT_OF_MEMORY)


LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
code = child.wait()
if code < 0 or sys.platform == "win32" and code > 255:
    sys.stderr.write("error: [/Slicer/bin/python-real] exit abnormally - Report the problem.\\n")
os._exit(code if code >= 0 else 1)
"""
"""What Slicer's launcher does with a program that a signal has ended (PythonSlicer is one)."""


@needs_posix
@pytest.mark.parametrize(
    ("death", "kind"),
    [
        ("os.kill(os.getpid(), 9)", "memory"),
        ("import faulthandler; faulthandler.enable(); os.kill(os.getpid(), 11)", "engine"),
        ("os._exit(3)", "engine"),
    ],
)
def test_lack_of_memory_is_told_behind_a_launcher_too(loop: EventLoop, death: str, kind: str) -> None:
    methods = f'elif method == "die":\n        {death}'
    engine = loop.engine(sys.executable, "-c", LAUNCHER, SCRIPT.format(body="ready()", methods=methods))
    error = loop.error(engine, "die")
    assert error["kind"] == kind
    assert "exit abnormally" in Path(error["log"]).read_text() or "_exit" in death
    # What the log said of an earlier start does not count.
    engine._command[-1] = SCRIPT.format(body="ready()", methods='elif method == "die":\n        os._exit(3)')
    assert loop.error(engine, "die")["kind"] == "engine"


def test_only_the_request_that_it_died_of_fails(loop: EventLoop) -> None:
    engine = _engine(loop, 'elif method == "crash":\n    time.sleep(0.3)\n    os._exit(1)')
    crash, after = loop.ask(engine, "crash"), loop.ask(engine, "echo", {"b": 2})
    loop.wait(lambda: crash.done and after.done, 20)
    assert crash.error["kind"] == "engine"
    assert after.result == {"b": 2}
    assert crash.answers == after.answers == 1
    assert engine.starts == 2


def test_what_was_exchanged_outlives_the_process(loop: EventLoop) -> None:
    engine = _engine(loop, 'elif method == "crash":\n    os._exit(1)')
    (engine.folder / "masks.npy").write_bytes(b"masks")
    loop.error(engine, "crash")
    loop.result(engine, "echo")
    assert Path(engine.path("masks.npy")).read_bytes() == b"masks"
    engine.discard("masks.npy")
    engine.discard("masks.npy")
    assert not Path(engine.path("masks.npy")).exists()
    folder = engine.folder
    engine.close()
    assert not folder.exists()


def test_a_process_that_hangs_is_ended(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "SILENT_SECONDS", 1.0)
    engine = _engine(loop, 'elif method == "hang":\n    time.sleep(600)')
    hang, after = loop.ask(engine, "hang"), loop.ask(engine, "echo", {"b": 2})
    took = loop.wait(lambda: hang.done and after.done, 20)
    assert took > 0.9
    assert (hang.error["kind"], hang.error["message"]) == ("engine", messages.ENGINE_HANGS)
    assert after.result == {"b": 2}
    assert loop.processes[0].wait(10) != 0


def test_a_heartbeat_keeps_it_alive(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "SILENT_SECONDS", 1.0)
    slow = """elif method == "slow":
    for _ in range(8):
        time.sleep(0.25)
        say(event="heartbeat")
    say(event="heartbeat", patience=30)
    time.sleep(1.5)
    say(id=id, result={})"""
    engine = _engine(loop, slow)
    loop.result(engine, "slow")
    assert engine.starts == 1


def test_who_did_not_listen_does_not_call_it_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    engine = EngineProcess(_Silent, ["engine"], clock=lambda: now[0])
    errors: list[dict] = []
    engine.request("work", on_error=errors.append)
    _Silent.last.on_bytes(b'{"event": "ready"}\n')
    for now[0] in (1.0, 2.0, 300.0, 301.0):  # a dialog was open, or the lid was closed
        engine.tick()
    assert errors == []
    for second in range(302, 312):
        now[0] = float(second)
        engine.tick()
    assert errors[0]["kind"] == "engine"
    engine.close()


class _Silent:
    """A transport of which nothing comes but what the test says."""

    last: _Silent

    def __init__(self, on_bytes, on_exit) -> None:
        self.on_bytes, self.on_exit = on_bytes, on_exit
        self.sent: list[bytes] = []
        self.killed = False
        _Silent.last = self

    def start(self, command, environment) -> None:
        self.command, self.environment = command, environment

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def kill(self, wait: bool = False) -> None:
        self.killed = True


def test_the_last_words_of_a_killed_process_do_not_count() -> None:
    now = [0.0]
    engine = EngineProcess(_Silent, ["engine", "worker"], {"A": "b"}, clock=lambda: now[0])
    answers: list[dict] = []
    engine.request("work", on_result=answers.append, on_error=answers.append)
    first = _Silent.last
    assert first.command[:3] == ["engine", "worker", "--token"] and first.environment == {"A": "b"}
    assert first.command[-2:] == ["--folder", str(engine.folder)]
    first.on_bytes(b'{"event": "ready"}\n')
    for second in range(1, 13):
        now[0] = float(second)
        engine.tick()
    assert first.killed and [one["kind"] for one in answers] == ["engine"]
    first.on_bytes(b'{"id": 1, "result": {}}\n')
    first.on_exit(-9)
    assert len(answers) == 1
    engine.request("more", on_result=answers.append)
    assert _Silent.last is not first
    first.on_exit(-9)
    assert engine.running
    engine.close()


@pytest.mark.parametrize("pid", [-1, 0, 1, pytest.param(os.getpid(), id="its own"), "7", None, float("inf")])
def test_nobody_else_is_ended_whatever_number_it_gives(pid: object, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple] = []
    monkeypatch.setattr(engine_process.os, "kill", lambda *who: ended.append(who))
    engine = EngineProcess(_Silent, ["engine"])
    engine.request("work")
    _Silent.last.on_bytes(json.dumps({"event": "ready", "pid": pid}).encode() + b"\n")
    engine.close()
    assert _Silent.last.killed and ended == []


def test_a_fault_in_the_use_of_an_answer_costs_no_other(loop: EventLoop) -> None:
    engine = _engine(loop)
    engine.request("echo", {}, on_result=lambda _: 1 / 0)
    assert loop.result(engine, "echo", {"a": 1}) == {"a": 1}


NOT_THERE, BROKEN = ["/no/such/program"], [sys.executable, "-c", "raise SystemExit('no engine here')"]


@pytest.mark.parametrize("command", [NOT_THERE, BROKEN])
def test_a_program_that_does_not_start_is_told_once(loop: EventLoop, command: list[str]) -> None:
    engine = loop.engine(*command)
    first, second = loop.ask(engine, "echo"), loop.ask(engine, "echo")
    loop.wait(lambda: first.done and second.done, 20)
    for answer in (first, second):
        assert answer.error["kind"] == "engine"
        assert answer.error["message"] == messages.ENGINE_NOT_STARTED
    assert engine.starts == 1
    if command is BROKEN:
        assert "no engine here" in Path(first.error["log"]).read_text()


def test_a_folder_that_cannot_be_written_to_is_told(loop: EventLoop) -> None:
    engine = _engine(loop)
    token = Path(engine.path(engine_process.TOKEN))
    token.mkdir()
    answer = loop.ask(engine, "echo")
    assert answer.error["kind"] == "engine" and answer.error["message"] == messages.ENGINE_NOT_STARTED
    assert not engine.running
    token.rmdir()
    assert loop.result(engine, "echo", {"a": 1}) == {"a": 1}


def test_cancelling_is_told_to_the_process(loop: EventLoop) -> None:
    heed = """elif method == "work":
    say(id=id, progress={"fraction": 0.1, "text": "Working"})
elif method == "cancel":
    say(id=params["id"], error={"kind": "cancelled", "message": "Stopped."})"""
    engine = _engine(loop, heed)
    answer = loop.ask(engine, "work")
    loop.wait(lambda: answer.progress, 20)
    answer.request.cancel()
    answer.request.cancel()
    assert loop.wait(lambda: answer.done, 20) < 1.0
    assert answer.error["kind"] == "cancelled" and answer.answers == 1
    assert engine.starts == 1


def test_a_process_that_does_not_heed_is_ended(loop: EventLoop) -> None:
    engine = _engine(loop, 'elif method == "work":\n    say(id=id, progress={})\n    time.sleep(600)')
    answer, after = loop.ask(engine, "work"), loop.ask(engine, "echo", {"b": 2})
    loop.wait(lambda: answer.progress, 20)
    answer.request.cancel()
    assert loop.wait(lambda: answer.done, 5) < 2.0
    assert answer.error["kind"] == "cancelled" and engine.running
    loop.wait(lambda: after.done, 20)
    assert after.result == {"b": 2}


def test_a_request_that_waits_can_be_cancelled_without_harm_to_the_one_that_runs(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is busy and does not read: what waits is never asked again."""
    monkeypatch.setattr(engine_process, "CANCEL_SECONDS", 0.3)
    busy = 'elif method == "work":\n    say(id=id, progress={})\n    time.sleep(1.0)\n    say(id=id, result={"w": 1})'
    engine = _engine(loop, busy)
    work, waiting = loop.ask(engine, "work"), loop.ask(engine, "echo", {"b": 2})
    loop.wait(lambda: work.progress, 20)
    waiting.request.cancel()
    loop.wait(lambda: work.done and waiting.done, 20)
    assert waiting.error["kind"] == "cancelled"
    assert work.result == {"w": 1}
    assert engine.starts == 1


def test_much_output_in_many_pieces(loop: EventLoop) -> None:
    big = 'elif method == "big":\n    say(id=id, result={"text": "x" * 3000000})'
    engine = _engine(loop, big)
    began = time.monotonic()
    assert len(loop.result(engine, "big")["text"]) == 3000000
    assert time.monotonic() - began < 20
