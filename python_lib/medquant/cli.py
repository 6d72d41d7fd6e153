"""The engine as a command: `medquant COMMAND`, with exit codes that mean something.

0: done. 1: unexpected error, with a log. 2: wrong usage, or something that the user can put right. 130: stopped.
"""

from __future__ import annotations

import codecs
import logging
import os
import platform
import re
import sys
import tempfile
import threading
import time
import traceback
import warnings
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from medquant import __version__
from medquant.commands import (
    activations,
    autoquant,
    bench,
    cache,
    compare,
    demo,
    doctor,
    export,
    export_mask,
    models,
    quantize,
    rewrites,
    segment,
    sensitivity,
    series,
    train_demo,
    worker,
)
from medquant.commands import app as window
from medquant.errors import Cancelled, Notice, UserError
from medquant.waiting import wait_briefly

UNEXPECTED, USER_ERROR, CANCELLED = 1, 2, 130
PATIENCE_SECONDS = 1.0
"""How long a stopped command waits for what still runs."""
_NUMBERS = {
    r"Input should be a valid integer.*": "it is not a whole number. Give one.",
    r"Input should be a valid number.*": "it is not a number. Give one.",
    r"Input should be greater than or equal to (\S+)": r"it is less than \1. Give \1 or more.",
}
"""What a library says of a number that it cannot take, and what a person understands."""
PLAIN = {"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": "x"}


class _Commands(TyperGroup):
    """Turns every error into one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _complain(str(error))
            raise typer.Exit(USER_ERROR) from error
        except (Cancelled, KeyboardInterrupt) as error:
            _note(str(error) or "Stopped.")
            raise typer.Exit(CANCELLED) from error
        except BrokenPipeError:  # `medquant models | head`
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - stays open until the process ends
            raise typer.Exit(0) from None
        except MemoryError as error:
            _complain("There is not enough memory. Close other programs, or give a smaller --max-memory.")
            raise typer.Exit(USER_ERROR) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("typer", "click"):
                _say_plainly(error)
                raise
            log = write_log(error)
            _complain(f"Unexpected error: {type(error).__name__}: {error}")
            _note(f"This is a fault of medquant. Please report it with {log} (it names your files, no image data).")
            raise typer.Exit(UNEXPECTED) from error


app = typer.Typer(
    name="medquant",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make segmentation models smaller and see what it costs: quantize MedSAM or nnU-Net with a scan of your own, "
    "segment with both, compare the masks. Not for clinical use.",
    epilog="Start with `medquant demo`. Exit codes: 0 done, 1 unexpected error, "
    "2 wrong usage or wrong input, 130 stopped.",
)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("app", epilog=window.EXAMPLES)(window.app)
app.command("models", epilog=models.EXAMPLES)(models.models)
app.command("series", epilog=series.EXAMPLES)(series.series)
app.command("quantize", epilog=quantize.EXAMPLES)(quantize.quantize)
app.command("sensitivity", epilog=sensitivity.EXAMPLES)(sensitivity.sensitivity)
app.command("activations", epilog=activations.EXAMPLES)(activations.activations)
app.command("rewrites", epilog=rewrites.EXAMPLES)(rewrites.rewrites)
app.command("autoquant", epilog=autoquant.EXAMPLES)(autoquant.autoquant)
app.command("segment", epilog=segment.EXAMPLES)(segment.segment)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("export-mask", epilog=export_mask.EXAMPLES)(export_mask.export_mask)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("cache", epilog=cache.EXAMPLES)(cache.cache)
app.add_typer(bench.app, name="bench")
app.command("train-demo", epilog=train_demo.EXAMPLES)(train_demo.train_demo)
app.command("worker", epilog=worker.EXAMPLES)(worker.worker)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"medquant {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore")  # libraries warn developers; what a user must know is said by this package
        warnings.simplefilter("default", Notice)
    warnings.showwarning = _show_warning
    logging.getLogger().setLevel(logging.ERROR)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
    _note(str(message) if issubclass(category, Notice) else warnings.formatwarning(message, category, filename, lineno))


def write_log(error: BaseException) -> Path:
    """Write what a developer needs to know of an unexpected error; returns where."""
    from platformdirs import user_log_path

    name = f"error-{datetime.now():%Y%m%d-%H%M%S}.log"
    text = "".join(traceback.format_exception(error))
    about = f"medquant {__version__}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv}\n\n"
    for folder in (user_log_path("medquant", appauthor=False), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(about + text, encoding="utf-8")
            return folder / name
        except OSError:
            continue
    return Path("(no log could be written)")


def _say_plainly(error: Any) -> None:
    """A usage error without a library's own words."""
    if hasattr(error, "message"):
        for said, plain in _NUMBERS.items():
            error.message = re.sub(said, plain, error.message)


def _complain(text: str) -> None:
    Console(stderr=True).print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)


def _note(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """The console script."""
    wait_briefly(os.environ)
    codecs.register_error("plain", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
    try:
        app(prog_name="medquant")
    except SystemExit as end:
        if end.code == CANCELLED:
            _leave_at_once()
        raise


def _leave_at_once() -> None:
    """End the process though a library may still be busy with what was stopped: its calls cannot be interrupted."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    others = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CANCELLED)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """For an output that has no such character, as files on Windows: a minus stays a minus, others become "?"."""
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end
