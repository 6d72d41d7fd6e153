"""The worker's life: it keeps its output for answers, shows that it lives, and ends with whoever started it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medquant import __version__
from medquant.worker.channel import Channel
from medquant.worker.service import Service
from medquant.worker.unfinished import remove_unfinished

HEARTBEAT_SECONDS = 1.0
LOG, TOKEN = "worker.log", "token"
_SET_PARENT_DEATH_SIGNAL = 1
_MORE_LIKELY_KILLED = "500"
_NICENESS = 5
"""Whoever scrolls comes first; with nobody there the engine has the whole processor."""


def serve(folder: Path | None, token: str | None = None) -> None:
    """Answer requests from standard input until it ends, or `shutdown` comes; then the process is over.

    `folder` is where arrays are exchanged and the log is written; None: a new temporary one, told in `ready`. As it
    holds scans, it is removed where the other side has gone without a word; after `shutdown` it is the other side's.
    With a `token` it is removed only while the file `token` in it says the same: where it says otherwise the other
    side lives, and has started another worker with this folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="medquant-")) if folder is None else folder.expanduser().absolute()
    exchange = _Exchange(folder, token)
    if not exchange.is_mine:
        return
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    log = folder / LOG
    requests, answers = _own_streams(log)
    _end_with_parent(exchange)
    _give_way()
    channel = Channel(answers)
    service = Service(channel, folder, log)
    exchange.let_go = service.forget
    channel.send(event="ready", version=__version__, pid=os.getpid(), folder=str(folder), log=str(log))
    threading.Thread(target=_beat, args=(service, exchange), name="heartbeat", daemon=True).start()
    for line in requests:
        if line.strip() and not service.hear(line):
            os._exit(0)  # what still runs has nobody to answer to
    exchange.left_alone()


@dataclass
class _Exchange:
    """The folder, and whose it is."""

    folder: Path
    token: str | None
    let_go: Callable[[], None] = lambda: None
    """Closes the files that are open in it."""

    @property
    def is_mine(self) -> bool:
        """Whether no other worker has been given the folder meanwhile."""
        try:
            return self.token is None or (self.folder / TOKEN).read_text(encoding="ascii") == self.token
        except OSError:
            return False

    def left_alone(self) -> None:
        """Nobody listens any more, and nobody else would remove the scan."""
        if self.is_mine:
            with contextlib.suppress(Exception):  # Windows does not remove what is open: the log, and scans
                nothing = os.open(os.devnull, os.O_WRONLY)
                faulthandler.disable()
                for written in {1, 2, sys.stderr.fileno()}:
                    os.dup2(nothing, written)
                self.let_go()
                remove_unfinished(self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(0)


def _own_streams(log: Path) -> tuple[BinaryIO, BinaryIO]:
    """The streams of requests and answers, out of everyone else's reach.

    What libraries print, in Python or below it, goes to the log; what they read from standard input is empty.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - stays open until the process ends
    sys.stdout = sys.stderr = io.TextIOWrapper(
        os.fdopen(written, "wb", buffering=0), "utf-8", "backslashreplace", write_through=True
    )
    faulthandler.enable(sys.stderr)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form, force=True)
    return requests, answers


def _end_with_parent(exchange: _Exchange) -> None:
    """A parent that was killed says nothing: its pipe ends, and on Linux the system tells as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the parent's terminal is the parent's
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: exchange.left_alone() if os.getppid() != parent else os._exit(0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def _give_way() -> None:
    """Whoever shows pictures goes first, and where memory runs out it is not them who are ended.

    PyTorch, which quantizes for minutes, leaves a core to them; the runtimes that segment in seconds take all.
    """
    import psutil

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        process = psutil.Process()
        process.nice(_NICENESS if os.name == "posix" else psutil.BELOW_NORMAL_PRIORITY_CLASS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MORE_LIKELY_KILLED)


def _beat(service: Service, exchange: _Exchange) -> None:
    parent = os.getppid()
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        try:
            service.heartbeat()
        except OSError:
            exchange.left_alone()
        if os.name == "posix" and os.getppid() != parent:
            exchange.left_alone()
