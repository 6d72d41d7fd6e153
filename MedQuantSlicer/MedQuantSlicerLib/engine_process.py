"""The engine in a process of its own, as its user sees it: requests that are answered by callbacks.

Standard library only: how bytes get to the process and back is the business of a `Transport` (`engine_wire`).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from MedQuantSlicerLib import messages
from MedQuantSlicerLib.engine_wire import MakeTransport, Messages, Transport, line, number
from MedQuantSlicerLib.private_folder import PrivateFolder

START_SECONDS = 120.0
"""The engine is given so long until it says that it is ready."""
SILENT_SECONDS = 10.0
"""It says that it lives every second; after so long without a word it hangs."""
CANCEL_SECONDS = 0.7
"""Work that has not stopped so long after it was cancelled is ended with the process."""
DEAF_SECONDS = 3.0
"""Where `tick` did not come for so long, it was us who did not listen."""
LOG, TOKEN = "worker.log", "token"
LAUNCHER_SAYS, PYTHON_SAYS = "exit abnormally", "Fatal Python error"
"""In the log: Slicer's launcher, of a program that a signal has ended; Python, of every such signal but a kill."""

_log = logging.getLogger("medquant.panel")


class Request:
    """A question that was asked; one of `on_result` and `on_error` is called, once."""

    def __init__(
        self, engine: EngineProcess, id: int, method: str, params: Mapping[str, Any], callbacks: Mapping[str, Any]
    ) -> None:
        self.id, self.method, self.params = id, method, params
        self.begun = False
        """Whether the engine has said anything about it yet."""
        self.cancelled_at: float | None = None
        self._engine, self._callbacks = engine, callbacks

    def cancel(self) -> None:
        """Stop it: `on_error` gets the kind "cancelled" when the work has stopped; work that does not stop within a
        second is ended with the engine's process, which starts anew."""
        self._engine._cancel(self)

    def tell(self, name: str, content: Any) -> None:
        """Call one of the callbacks."""
        callback = self._callbacks.get(name)
        if callback is None:
            return
        try:
            callback(content)
        except Exception:  # a fault in what the answer is used for must not cost the other answers
            _log.exception("the answer of %s could not be used", self.method)


class EngineProcess:
    """Starts the engine when it is first asked for, and again after it has ended.

    `command` starts it (`--folder` is added), `environment` is added to its variables. Requests that it did not come to
    answer are asked again after a restart; the one that it was busy with is reported as failed. What was exchanged lies
    in `folder`, which outlives the process.
    """

    def __init__(
        self,
        make_transport: MakeTransport,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.starts = 0
        """How often the process was started."""
        self.restarted: Callable[[], None] = lambda: None
        """Called when it starts again after it ended by itself."""
        self._make_transport, self._command, self._environment = make_transport, list(command), dict(environment or {})
        self._clock = clock
        self._folder: PrivateFolder | None = None
        self._transport: Transport | None = None
        self._open: dict[int, Request] = {}
        self._last_id = self._generation = 0
        self._reset()

    # -- asking

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        on_progress: Callable[[dict], None] | None = None,
        on_partial: Callable[[dict], None] | None = None,
        on_result: Callable[[dict], None] | None = None,
        on_error: Callable[[dict], None] | None = None,
    ) -> Request:
        """Ask. `on_error` gets {"kind", "message", "log"}; kinds are "user", "memory", "cancelled", "engine" (it ended
        or hung) and "internal"."""
        self._last_id += 1
        callbacks = {"progress": on_progress, "partial": on_partial, "result": on_result, "error": on_error}
        request = Request(self, self._last_id, method, dict(params or {}), callbacks)
        self._open[request.id] = request
        if self._transport is None:
            self._start()
        else:
            self._send_request(request)
        return request

    @property
    def folder(self) -> Path:
        """Where arrays are exchanged: private, removed by `close`."""
        if self._folder is None:
            self._folder = PrivateFolder("panel")
        return self._folder.path

    @property
    def log(self) -> str:
        """The engine's log, or "" before it has written one."""
        path = None if self._folder is None else self._folder.path / LOG
        return str(path) if path is not None and path.is_file() else ""

    def path(self, name: str) -> str:
        """The path of a file in the folder."""
        return str(self.folder / name)

    def discard(self, name: str) -> None:
        """A file of the folder is no longer needed."""
        with suppress(OSError):  # on Windows the engine may still look at it; it goes with the folder
            (self.folder / name).unlink()

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._transport is not None

    # -- time

    def tick(self) -> None:
        """To be called twice a second or so: notices an engine that hangs, or that does not hear that it is to stop."""
        now = self._clock()
        if now - self._ticked > DEAF_SECONDS:
            self._heard = now
        self._ticked = now
        if self._transport is None:
            return
        if now - self._heard > self._patience:
            busy = self._end()
            self._fail(busy, "engine", messages.ENGINE_HANGS)
            return
        for request in list(self._open.values()):
            if request.cancelled_at is None or now - request.cancelled_at <= CANCEL_SECONDS:
                continue
            if request.begun or request is self._busy():
                self._end()
            self._fail(request, "cancelled", messages.STOPPED)
            if self._transport is None:
                self._start()  # the next press finds it ready
            return

    def close(self) -> None:
        """End the process and remove what was exchanged. Nobody is told of requests that were open."""
        self._open.clear()
        if self._transport is not None:
            self._transport.send(line(method="shutdown"))
            self._generation += 1
            self._kill(wait=True)
        if self._folder is not None:
            with suppress(ImportError):  # without it nothing was written either
                from medquant.worker.unfinished import remove_unfinished

                remove_unfinished(self._folder.path)
            self._folder.remove()
            self._folder = None

    # -- the process

    def _reset(self) -> None:
        self._messages, self._pid, self._ready = Messages(), 0, False
        self._logged = Path(self.log).stat().st_size if self.log else 0
        self._patience = START_SECONDS
        self._heard = self._ticked = self._clock()

    def _start(self) -> None:
        self._reset()
        self.starts += 1
        self._generation += 1
        this = self._generation  # what an earlier process still says does not count
        # A worker that hears late that it is not wanted must leave the folder to the one that came after it.
        token = secrets.token_hex(8)
        try:
            Path(self.path(TOKEN)).write_text(token, encoding="ascii")
        except OSError:
            _log.exception("the engine's folder cannot be written to")
            self._fail_all()
            return
        self._transport = self._make_transport(
            lambda data: self._on_bytes(data) if this == self._generation else None,
            lambda code: self._on_exit(code) if this == self._generation else None,
        )
        self._transport.start([*self._command, "--token", token, "--folder", str(self.folder)], self._environment)
        for request in list(self._open.values()):
            request.begun = False
            self._send_request(request)
        if self.starts > 1:
            self.restarted()

    def _send_request(self, request: Request) -> None:
        if self._transport is not None:
            self._transport.send(line(id=request.id, method=request.method, params=request.params))

    def _cancel(self, request: Request) -> None:
        if request.id not in self._open or request.cancelled_at is not None:
            return
        request.cancelled_at = self._clock()
        if self._transport is not None:
            self._transport.send(line(method="cancel", params={"id": request.id}))

    def _end(self) -> Request | None:
        """Kill the process; gives the request that it was busy with."""
        self._generation += 1  # its last words do not count
        self._kill()
        return self._busy()

    def _busy(self) -> Request | None:
        """What the process is busy with, as far as it has told: it answers one request after the other."""
        begun = [request for request in self._open.values() if request.begun]
        return next(iter(begun or self._open.values()), None)

    def _kill(self, wait: bool = False) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self.discard(TOKEN)
        if self._pid > 1 and self._pid != os.getpid():  # the transport may know a launcher only
            with suppress(OSError):
                os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        transport.kill(wait)

    def _on_exit(self, code: int | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        self.discard(TOKEN)
        if code is None or not self._ready:
            self._fail_all()
            return
        busy = self._busy()
        if self._was_killed(code):
            self._fail(busy, "memory", messages.ENGINE_OUT_OF_MEMORY)
        else:
            self._fail(busy, "engine", messages.ENGINE_ENDED)

    def _fail_all(self) -> None:
        everyone = list(self._open.values())
        self._open.clear()
        for request in everyone:
            request.tell("error", {"kind": "engine", "message": messages.ENGINE_NOT_STARTED, "log": self.log})

    def _was_killed(self, code: int) -> bool:
        """Whether the system ended the engine, which it does where memory runs out."""
        if code in (-9, 137):
            return True
        if not self.log:
            return False
        with Path(self.log).open("rb") as stream:
            stream.seek(self._logged)
            words = stream.read().decode("utf-8", "replace")
        return LAUNCHER_SAYS in words and PYTHON_SAYS not in words

    def _fail(self, request: Request | None, kind: str, message: str) -> None:
        """Report one request, and ask the others again."""
        if request is not None:
            self._open.pop(request.id, None)
        for other in [other for other in self._open.values() if other.cancelled_at is not None]:
            self._open.pop(other.id)
            other.tell("error", {"kind": "cancelled", "message": messages.STOPPED})
        if self._open and self._transport is None:
            self._start()
        if request is not None:
            if request.cancelled_at is not None:
                kind, message = "cancelled", messages.STOPPED
            request.tell("error", {"kind": kind, "message": message, "log": self.log})

    # -- what it says

    def _on_bytes(self, data: bytes) -> None:
        self._heard = self._clock()
        for message in self._messages.take(data):
            self._on_message(message)

    def _on_message(self, message: dict[str, Any]) -> None:
        if "event" in message:
            if message["event"] in ("ready", "heartbeat"):
                if message["event"] == "ready":
                    self._ready, self._pid = True, int(number(message.get("pid")))
                self._patience = max(SILENT_SECONDS, number(message.get("patience")))
            return
        request = self._open.get(int(number(message.get("id"))))
        if request is None:
            return
        request.begun = True
        for name in ("progress", "partial"):
            if isinstance(message.get(name), dict) and request.cancelled_at is None:
                request.tell(name, message[name])
        for name in ("result", "error"):
            if isinstance(message.get(name), dict) and request.id in self._open:
                self._open.pop(request.id)
                request.tell(name, message[name])
