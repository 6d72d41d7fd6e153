"""How long work reports itself and is stopped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medquant.errors import Cancelled
from medquant.progress import Progress, ProgressEvent


def collected() -> tuple[list[ProgressEvent], Progress]:
    events: list[ProgressEvent] = []
    return events, Progress(events.append)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4), st.floats(-1, 2))
def test_spans_nest(parts: list[tuple[float, float]], fraction: float) -> None:
    events, progress = collected()
    low, high = 0.0, 1.0
    for a, b in parts:
        start, stop = min(a, b), max(a, b)
        progress = progress.span(start, stop)
        low, high = low + (high - low) * start, low + (high - low) * stop
    progress.report(fraction, "working")
    clipped = min(max(fraction, 0.0), 1.0)
    assert events[0].fraction == pytest.approx(low + (high - low) * clipped, abs=1e-9)
    assert events[0].message == "working"


def test_time_left_is_what_the_done_part_took() -> None:
    events, progress = collected()
    progress.report(0.5, "at once")
    progress.began -= 30.0
    progress.span(0.0, 0.5).report(0.5, "a quarter")
    progress.report(0.001, "too early to tell")
    progress.report(1.0, "done")
    assert events[0].seconds_left is None and events[2].seconds_left is None
    assert events[1].seconds_left == pytest.approx(90.0, rel=0.05)
    assert events[3].seconds_left == 0.0


def test_the_wish_to_stop_is_heard_in_every_span() -> None:
    stop = False
    events: list[ProgressEvent] = []
    progress = Progress(events.append, lambda: stop)
    inner = progress.span(0.2, 0.4).span(0.1, 0.2)
    inner.check()
    inner.report(0.5, "fine")
    stop = True
    for act in (inner.check, progress.check, lambda: inner.report(0.6, "too late")):
        with pytest.raises(Cancelled):
            act()
    assert len(events) == 1


def test_silent_work_can_be_stopped() -> None:
    Progress().report(0.5, "nobody listens")
    with pytest.raises(Cancelled):
        Progress(cancelled=lambda: True).report(0.5, "nobody listens")
