"""One request on its way: what it tells, how often, and that it is answered once."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from medquant.errors import Cancelled
from medquant.worker.channel import Channel
from medquant.worker.warm import Warm
from medquant.worker.work import Work


@pytest.fixture
def stream() -> io.BytesIO:
    """What the other side reads."""
    return io.BytesIO()


@pytest.fixture
def work(stream: io.BytesIO, tmp_path: Path) -> Work:
    """A request."""
    return Work(7, "segment", {}, Channel(stream), tmp_path, Warm())


def _said(stream: io.BytesIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_new_step_is_told_at_once_and_numbers_now_and_then(work: Work, stream: io.BytesIO) -> None:
    part = work.part()
    part.report(0.0, "Choosing what computes fastest here")
    for number in range(1, 200):
        part.report(number / 200, f"Slice {number} of 200")
    texts = [message["progress"]["text"] for message in _said(stream)]
    assert texts[:2] == ["Choosing what computes fastest here", "Slice 1 of 200"]
    assert len(texts) < 100


def test_a_part_fills_its_part_of_the_bar(work: Work, stream: io.BytesIO) -> None:
    work.part(0.0, 0.2).report(0.5, "First")
    work.part(0.2, 1.0).report(0.5, "Second")
    assert [message["progress"]["fraction"] for message in _said(stream)] == [0.1, 0.6]


def test_one_answer_and_nothing_after_it(work: Work, stream: io.BytesIO) -> None:
    work.partial(cell=1)
    assert work.answer(result={"a": 1})
    assert not work.answer(error={"kind": "user"})
    work.partial(cell=2)
    work.part().report(0.5, "Late")
    assert _said(stream) == [{"id": 7, "partial": {"cell": 1}}, {"id": 7, "result": {"a": 1}}]


def test_cancelling_answers_and_stops_the_work(work: Work, stream: io.BytesIO) -> None:
    work.cancel()
    assert _said(stream)[0]["error"]["kind"] == "cancelled"
    with pytest.raises(Cancelled):
        work.part().check()
    assert work.cancelled and not work.answer(result={})


def test_what_cannot_be_sent_is_no_answer(work: Work, stream: io.BytesIO) -> None:
    with pytest.raises(TypeError):
        work.answer(result={"x": object()})
    assert work.answer(error={"kind": "internal"})
    assert len(_said(stream)) == 1
