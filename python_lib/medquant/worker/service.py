"""Requests in, answers out: who does what, in which order, and what an error is called."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import thread as pools
from importlib import import_module
from pathlib import Path
from typing import Any

from medquant.errors import Cancelled, UserError
from medquant.worker.channel import Channel
from medquant.worker.warm import Warm
from medquant.worker.work import STOPPED, Work

METHODS = {
    "machine": ("machine", "machine"),
    "cache": ("machine", "cache"),
    "models": ("models", "models"),
    "add_weights": ("models", "add_weights"),
    "download": ("models", "download"),
    "sizes": ("models", "sizes"),
    "quantize": ("quantizing", "quantize"),
    "find_safe": ("smallest", "find_safe"),
    "segment": ("segmenting", "segment"),
    "compare": ("comparing", "compare"),
    "report": ("comparing", "report"),
    "sensitivity": ("layers", "sensitivity"),
    "export": ("exporting", "export"),
}
"""The module in `medquant.worker.methods` and the function of each method."""
QUICK = frozenset({"models", "cache"})
"""Answered beside whatever else runs."""
IMPORT_SECONDS = 120
"""A first import from a slow disk may hold the interpreter for so long, heartbeat included."""
POOL = pools.__file__
POLL_SECONDS = 0.02
NO_MEMORY = (
    "There is not enough memory for this. Close other programs, cut the scan to the part of interest, or take a "
    "smaller model."
)
_log = logging.getLogger("medquant.worker")


class Service:
    """Two lanes: long work one after the other, quick questions beside it."""

    def __init__(self, channel: Channel, folder: Path, log: Path) -> None:
        self._channel, self._folder, self._log = channel, folder, log
        self._warm = Warm()
        self._works: dict[int, Work] = {}
        self._done: set[str] = set()
        self._new: set[str] = set()
        self._lanes = {lane: queue.SimpleQueue() for lane in ("long", "quick")}
        for name, lane in self._lanes.items():
            threading.Thread(target=self._run_all, args=(lane,), name=name, daemon=True).start()

    def heartbeat(self) -> None:
        """Say that the process lives, and while it may have to import that the next time may be long in coming."""
        self._channel.send(event="heartbeat", patience=IMPORT_SECONDS if self._new else 0)

    def forget(self) -> None:
        """Let go of scans and models: a file that is open cannot be removed on Windows."""
        self._warm.forget()

    def hear(self, line: bytes) -> bool:
        """One line of the other side; False where it says that this is the end."""
        try:
            message = json.loads(line)
            method, params = str(message["method"]), dict(message.get("params") or {})
            number = int((params if method == "cancel" else message).get("id") or 0)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self._channel.send(event="ignored", text=line[:200].decode("ascii", "replace"))
            return True
        if method == "cancel" and number in self._works:
            self._works[number].cancel()
        elif method not in ("cancel", "shutdown"):
            work = Work(number, method, params, self._channel, self._folder, self._warm)
            self._works[number] = work
            self._lanes["quick" if method in QUICK else "long"].put(work)
        return method != "shutdown"

    def _run_all(self, lane: queue.SimpleQueue[Work]) -> None:
        while True:
            work = lane.get()
            try:
                if work.begin():
                    self._run(work)
            except Exception:  # nobody reads any more: the process is about to end
                _log.exception("%s could not be answered", work.method)
            finally:
                self._works.pop(work.id, None)

    def _run(self, work: Work) -> None:
        if work.method not in self._done:
            self._new.add(work.method)
            self.heartbeat()
        others = set(threading.enumerate())
        try:
            work.answer(result=self._function(work.method)(work.params, work))
            self._done.add(work.method)
        except BaseException as error:  # whatever a library raises is an answer
            if isinstance(error, Cancelled):
                _wait_for_threads(others)
            work.answer(error=self._told(error, work))
        finally:
            if work.method in self._new:
                self._new.discard(work.method)
                self.heartbeat()

    def _function(self, method: str) -> Callable[[dict[str, Any], Work], dict[str, Any]]:
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r}")
        module, name = METHODS[method]
        return getattr(import_module(f"medquant.worker.methods.{module}"), name)

    def _told(self, error: BaseException, work: Work) -> dict[str, Any]:
        from medquant.memory import lacks_memory

        if isinstance(error, Cancelled):
            return STOPPED
        if lacks_memory(error) or (error.__cause__ is not None and lacks_memory(error.__cause__)):
            _log.error("no memory for %s: %s", work.method, error)
            error = error if isinstance(error, UserError) else UserError(NO_MEMORY)
            self._warm.forget()
            return {"kind": "memory", "message": str(error), "log": str(self._log)}
        if isinstance(error, UserError):
            return {"kind": "user", "message": str(error)}
        _log.error("%s failed", work.method, exc_info=error)
        text = f"Unexpected error: {type(error).__name__}: {error}".splitlines()[0]
        message = f"{text.rstrip('.')}. This is a fault of MedQuant; please report it with the log."
        return {"kind": "internal", "message": message, "log": str(self._log)}


def _wait_for_threads(others: set[threading.Thread]) -> None:
    """Until the threads that a work has begun have ended: what compiles cannot be interrupted, and goes on for long
    after the work was told to stop. Only then has it stopped. A pool that is kept open has threads that never end."""
    for thread in threading.enumerate():
        if thread in others or type(thread) is not threading.Thread:  # one that only watches, as tqdm's
            continue
        rested = 0
        while thread.is_alive() and rested < 2:  # once may be between two tasks
            thread.join(POLL_SECONDS)
            rested = rested + 1 if _rests(thread) else 0


def _rests(thread: threading.Thread) -> bool:
    """Whether it waits in a pool for something to do."""
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) == (POOL, "_worker")
