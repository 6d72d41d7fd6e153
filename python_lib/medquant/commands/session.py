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
from itertools import accumulate
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from medquant.commands.countdown import Countdown
from medquant.errors import UserError
from medquant.evaluation.pictures import require_picture
from medquant.files import atomic_path
from medquant.progress import CancelCheck, ProgressCallback, ProgressEvent

SECONDS_BETWEEN_LINES = 5.0


class Session:
    """One run of a command: `console` for people, `finish` for machines, `track` around long work."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.data: Any = None

    def say(self, text: str) -> None:
        """A line for people; rich markup is allowed, so what users named goes through `escape` or `strong`.

        A terminal gets it in lines of whole words, so that paths can be copied; a file gets it as it is.
        """
        if not self.console.is_terminal:
            self.console.print(text, highlight=False, soft_wrap=True)
            return
        for line in _whole_words(Text.from_markup(text, emoji=False), self.console.width):
            self.console.print(line, highlight=False, soft_wrap=True)

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


def _whole_words(text: Text, width: int) -> Iterator[Text]:
    """The text in lines of at most `width` columns, except for longer words, and without blanks at their ends."""
    for paragraph in text.split("\n", allow_blank=True):
        pieces = wrap(
            paragraph.plain, width, break_long_words=False, break_on_hyphens=False, drop_whitespace=False,
            replace_whitespace=False, expand_tabs=False,
        )  # fmt: skip
        for number, line in enumerate(paragraph.divide(accumulate(len(piece) for piece in pieces[:-1]))):
            line.rstrip()
            blanks = len(line.plain) - len(line.plain.lstrip())
            yield line[blanks:] if number else line


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
        run.say(f"Numbers: {strong(target)}")


def strong(text: object) -> str:
    """A path or name in bold for `Session.say`, its own brackets as they are."""
    return f"[bold]{escape(str(text))}[/bold]"


def output_told(path: Path) -> str:
    """A file that is about to be written, for `Session.say` afterwards: whether it replaces another is told."""
    return strong(path) + (" (replaced)" if path.exists() else "")


def output_file(path: str | Path, option: str = "--output") -> Path:
    """`path`, known to be writable before long work begins. Raises `UserError`."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder. Give {option} the name of a file.")
    return _in_a_folder(path, option)


def picture_file(path: str | Path, option: str = "--figure") -> Path:
    """Like `output_file`, for a picture. Raises `UserError` for a format that is not drawn."""
    require_picture(path, option)
    return output_file(path, option)


def output_folder(path: str | Path, option: str = "--output") -> Path:
    """`path`, a folder, known to be writable or to have a place before long work begins. Raises `UserError`."""
    path = Path(path).expanduser()
    if not path.exists():
        return _in_a_folder(path, option)
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise UserError(f"{path} is not a folder you may write in. Correct {option}.")
    return path


def _in_a_folder(path: Path, option: str) -> Path:
    """`path`, whose folder must be there: one that is not is more often a typing error than a wish."""
    folder = path.absolute().parent
    if not folder.exists():
        raise UserError(f"There is no folder {folder}. Make it first, or correct {option}.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: {folder} is not a folder you may write in. Choose another.")
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
    countdown = Countdown()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), _TimeLeft(countdown))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def show(event: ProgressEvent) -> None:
            countdown.hear(event)
            bar.update(task, completed=event.fraction, description=event.message)

        yield show


class _TimeLeft(ProgressColumn):
    """0:42 left, counting down between reports, or nothing before there is an estimate."""

    def __init__(self, countdown: Countdown) -> None:
        super().__init__()
        self._countdown = countdown

    def render(self, task: Task) -> Text:
        return Text(time_left(self._countdown.seconds_left()), style="dim")


class _Lines:
    """Progress where there is no terminal: a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console, self.last, self.countdown = console, time.monotonic(), Countdown()

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        self.countdown.hear(event)
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        left = time_left(self.countdown.seconds_left())
        line = f"{event.fraction:4.0%}  {event.message}" + (f", {left}" if left else "")
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def time_left(seconds: float | None) -> str:
    """0:42 left; empty before there is an estimate."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"
