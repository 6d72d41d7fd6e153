"""An event loop and processes in it, with the standard library: what Qt does in the panel."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from MedQuantSlicerLib.engine_process import EngineProcess

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")


class EventLoop:
    """Calls what other threads have handed in, in the thread that waits."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.engines: list[EngineProcess] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def engine(self, *command: str, **options: Any) -> EngineProcess:
        """An engine whose process runs in this loop."""
        made = EngineProcess(lambda *callbacks: _Pipes(self, *callbacks), command, **options)
        self.engines.append(made)
        return made

    def later(self, event: Callable[[], None]) -> None:
        """From any thread: to be called in the loop's."""
        self._events.put(event)

    def wait(self, until: Callable[[], Any], seconds: float = 120.0) -> float:
        """Go on until something is true; returns the seconds that took, and fails where it takes too long."""
        began = time.monotonic()
        while not until():
            left = began + seconds - time.monotonic()
            assert left > 0, f"waited {seconds} s in vain"
            with suppress(queue.Empty):
                self._events.get(timeout=min(0.1, left))()
            for engine in self.engines:
                engine.tick()
        return time.monotonic() - began

    def ask(self, engine: EngineProcess, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """Ask, without waiting."""
        answer = Answer(more.pop("on_partial", None))
        answer.request = engine.request(
            method,
            params,
            on_progress=answer.progress.append,
            on_partial=answer.take_part,
            on_result=answer.take_result,
            on_error=answer.take_error,
        )
        return answer

    def result(self, engine: EngineProcess, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> dict:
        """Ask and wait; fails where the answer is an error."""
        answer = self.ask(engine, method, params, **more)
        self.wait(lambda: answer.done)
        assert answer.error is None, (answer.error, Path(engine.log).read_text() if engine.log else "")
        return answer.result

    def error(self, engine: EngineProcess, method: str, params: Mapping[str, Any] | None = None) -> dict:
        """Ask and wait for an error."""
        answer = self.ask(engine, method, params)
        self.wait(lambda: answer.done)
        assert answer.error is not None, answer.result
        return answer.error

    def close(self) -> None:
        """End all processes."""
        for engine in self.engines:
            engine.close()
        for process in self.processes:
            process.kill()
            process.wait(10)


class Answer:
    """What has come of a request so far."""

    def __init__(self, on_partial: Callable[[dict], None] | None = None) -> None:
        self.request: Any = None
        self.progress: list[dict] = []
        self.partial: list[dict] = []
        self.result: dict | None = None
        self.error: dict | None = None
        self.answers = 0
        self._on_partial = on_partial

    @property
    def done(self) -> bool:
        """Whether the answer is there."""
        return self.answers > 0

    def take_part(self, content: dict) -> None:
        """Something before the end."""
        assert not self.done
        self.partial.append(content)
        if self._on_partial is not None:
            self._on_partial(content)

    def take_result(self, content: dict) -> None:
        """The end, as hoped for."""
        self.result, self.answers = content, self.answers + 1

    def take_error(self, content: dict) -> None:
        """The end, otherwise."""
        self.error, self.answers = content, self.answers + 1


class _Pipes:
    """A transport of pipes and threads."""

    def __init__(
        self, loop: EventLoop, on_bytes: Callable[[bytes], None], on_exit: Callable[[int | None], None]
    ) -> None:
        self._loop, self._on_bytes, self._on_exit = loop, on_bytes, on_exit
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        log = Path(command[-1]) / "worker.log"
        try:
            with log.open("ab") as stream:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stream,
                    # Beside other tests two threads would mostly wait for each other.
                    env={"OMP_NUM_THREADS": "1", **os.environ, **environment},
                    bufsize=0,
                )
        except OSError:
            self._loop.later(lambda: self._on_exit(None))
            return
        self._loop.processes.append(self._process)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        while data := os.read(process.stdout.fileno(), 65536):
            self._loop.later(lambda data=data: self._on_bytes(data))
        code = process.wait()
        self._loop.later(lambda: self._on_exit(code))

    def send(self, data: bytes) -> None:
        if self._process is not None:
            try:
                self._process.stdin.write(data)
            except OSError:
                assert self._process.wait(10) is not None  # it has ended, and `on_exit` is on its way

    def kill(self, wait: bool = False) -> None:
        if self._process is not None:
            self._process.kill()
            if wait:
                self._process.wait(10)
