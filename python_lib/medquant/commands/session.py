"""What every command shares: where words and JSON go, progress with the time left, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from medquant.errors import UserError
from medquant.files import atomic_path
from medquant.progress import CancelCheck, ProgressCallback, ProgressEvent

SECONDS_BETWEEN_LINES = 5.0


class Session:
    """One run of a command: `console` for people, `finish` for machines, `track` around long work."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.data: Any = None

    def say(self, text: str) -> None:
        """A line for people; rich markup is allowed, so what users named goes through `escape` or `strong`."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def finish(self, data: Any) -> None:
        """What `--json` writes once the command has come to its end."""
        self.data = data

    @contextmanager
    def track(self, title: str) -> Iterator[tuple[ProgressCallback, CancelCheck]]:
        """A progress bar with the time left, and a cancel check that the first Ctrl-C turns true.

        A second Ctrl-C stops at once. Where there is no terminal, a line is written every few seconds.
        """
        with _interrupt(self.console) as cancelled, _bar(self.console, title) as callback:
            yield callback, cancelled


@contextmanager
def session(json_target: str | None = None) -> Iterator[Session]:
    """A session whose `finish` data go to the file `json_target`, or for "-" to standard output and nothing else."""
    if json_target == "-":
        with _standard_output_kept() as write:
            run = Session(Console(stderr=True, emoji=False))
            yield run
        write(_as_json(run.data))
        return
    target = None if json_target is None else output_file(json_target, "--json")
    run = Session(Console(emoji=False))
    yield run
    if target is not None:
        with atomic_path(target) as temporary:
            temporary.write_text(_as_json(run.data), encoding="utf-8")


def strong(text: object) -> str:
    """A path or name in bold for `Session.say`, its own brackets as they are."""
    return f"[bold]{escape(str(text))}[/bold]"


def output_file(path: str | Path, option: str = "--output") -> Path:
    """`path`, known to be writable before long work begins. Raises `UserError`."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder. Give {option} the name of a file.")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{path} cannot be written: {existing} is not a folder you may write in. Choose another.")
    return path


def _as_json(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Numbers of numpy and paths as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@contextmanager
def _standard_output_kept() -> Iterator[Any]:
    """Send whatever libraries and their processes print to standard error; gives a function that writes to stdout."""
    python_stream = sys.stdout
    python_stream.flush()
    try:
        descriptor = python_stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        descriptor = None
    kept = None if descriptor is None else os.dup(descriptor)
    try:
        if descriptor is not None:
            os.dup2(sys.stderr.fileno(), descriptor)
        sys.stdout = sys.stderr
        yield lambda text: (python_stream.write(text), python_stream.flush())
    finally:
        sys.stdout.flush()
        sys.stdout = python_stream
        if kept is not None:
            os.dup2(kept, descriptor)
            os.close(kept)


@contextmanager
def _interrupt(console: Console) -> Iterator[CancelCheck]:
    """Turn the first Ctrl-C, or a polite kill, into a cancel check, the second into KeyboardInterrupt."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        console.print("Stopping. Press Ctrl-C again to stop at once.", highlight=False)

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[ProgressCallback]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), _TimeLeft())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def show(event: ProgressEvent) -> None:
            end = None if event.seconds_left is None else time.monotonic() + event.seconds_left
            bar.update(task, completed=event.fraction, description=event.message, end=end)

        yield show


class _TimeLeft(ProgressColumn):
    """0:42 left, counting down between reports, or nothing before there is an estimate."""

    def render(self, task: Task) -> Text:
        end = task.fields.get("end")
        return Text(time_left(None if end is None else max(0.0, end - time.monotonic())), style="dim")


class _Lines:
    """Progress where there is no terminal: a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console, self.last = console, time.monotonic()

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        left = time_left(event.seconds_left)
        line = f"{event.fraction:4.0%}  {event.message}" + (f", {left}" if left else "")
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def time_left(seconds: float | None) -> str:
    """0:42 left; empty before there is an estimate."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"
