"""The time left that a person reads: late enough to be true, and without jumps."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from medquant.commands.countdown import FIRST_AFTER_SECONDS, Countdown
from medquant.commands.session import Session
from medquant.progress import ProgressEvent


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _told(rates: list[float]) -> list[float | None]:
    """What is read each second while work goes on at so many hundredths a second, and the estimate is a plain ratio."""
    clock = Clock()
    countdown, told, done = Countdown(clock), [], 0.0
    for second, rate in enumerate(rates, start=1):
        clock.now += 1.0
        done += rate
        left = second * (1 - done) / done if done > 0.02 else None
        countdown.hear(ProgressEvent("working", done, left))
        told.append(countdown.seconds_left())
    return told


def test_steady_work_is_counted_down_to_its_end() -> None:
    told = _told([0.01] * 100)
    assert told[: int(FIRST_AFTER_SECONDS) - 1] == [None] * (int(FIRST_AFTER_SECONDS) - 1)
    shown = [(second, left) for second, left in enumerate(told, start=1) if left is not None]
    assert all(left == pytest.approx(100 - second, abs=1) for second, left in shown)


def test_work_that_slows_down_makes_no_jump_and_ends_at_zero() -> None:
    told = [left for left in _told([0.02] * 10 + [0.005] * 160) if left is not None]
    assert max(later - sooner for sooner, later in itertools.pairwise(told)) < 5.0
    assert told[-1] == pytest.approx(0.0, abs=2.0)


def test_the_next_piece_of_work_is_counted_anew() -> None:
    clock = Clock()
    countdown = Countdown(clock)
    for fraction in (0.1, 0.9):
        clock.now += 10.0
        countdown.hear(ProgressEvent("first", fraction, 50.0))
    assert countdown.seconds_left() is not None
    countdown.hear(ProgressEvent("second", 0.0, None))
    assert countdown.seconds_left() is None


def test_a_terminal_gets_whole_words_and_no_trailing_blank() -> None:
    path = "/data/" + "a" * 90 + ".nii.gz"
    text = f"Written: the masks of every model that was asked for, on the grid of the scan itself: {path}"
    stream = io.StringIO()
    Session(Console(file=stream, width=80, force_terminal=True, color_system=None, emoji=False)).say(text)
    lines = stream.getvalue().splitlines()
    assert path in lines and len(lines) == 3
    assert all(line == line.strip() and (len(line) <= 80 or line == path) for line in lines)
    for width in range(10, 60):  # wherever the blank falls
        stream = io.StringIO()
        console = Console(file=stream, width=width, force_terminal=True, color_system=None)
        Session(console).say("\n  four words of [bold]one line[/bold]\n")
        first, *lines, last = stream.getvalue().splitlines()
        assert (first, last) == ("", "") and lines[0].startswith("  four")
        assert " ".join(line.strip() for line in lines) == "four words of one line"
        assert not any(line.startswith(" ") for line in lines[1:])
    stream = io.StringIO()
    Session(Console(file=stream, width=80, emoji=False)).say(text)
    assert stream.getvalue() == text + "\n", "a file gets one line"
