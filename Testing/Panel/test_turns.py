"""Work in pieces between events: its end, its failure, being stopped, and that others have their turn."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def run(slicer):
    """`run(pieces)` starts a generator and returns what it told; `run.until(so)` goes through the event loop."""
    import qt
    from MedQuantSlicerLib import turns

    def begin(pieces) -> list:
        told: list = []
        begin.last = turns.Turns(pieces, lambda value: told.append(("done", value)), lambda e: told.append(("no", e)))
        return told

    def until(so) -> None:
        end = time.monotonic() + 10
        while not so():
            assert time.monotonic() < end, "it did not come"
            qt.QApplication.processEvents()

    begin.until = until
    yield begin
    assert not turns._running, "a timer was kept"


def _count(to: int, seen: list, seconds: float = 0.0):
    for number in range(to):
        time.sleep(seconds)
        seen.append(number)
        yield
    return to


def test_others_have_their_turn(run) -> None:
    import qt

    first, second, between = [], [], []
    timer = qt.QTimer()
    timer.setInterval(0)
    timer.timeout.connect(lambda: between.append(len(first)))
    timer.start()
    told, also = run(_count(5, first, 0.02)), run(_count(3, second))
    assert first == [], "the caller goes on first"
    run.until(lambda: told and also)
    timer.stop()
    assert told == [("done", 5)] and also == [("done", 3)]
    assert set(between) >= {1, 2, 3, 4}


def test_a_failure_is_told_once(run) -> None:
    def fails():
        yield
        raise OSError(28, "No space left on device")

    told = run(fails())
    run.until(lambda: told)
    ((kind, error),) = told
    assert kind == "no" and error.errno == 28


def test_nothing_is_told_of_what_was_stopped(run) -> None:
    closed = []

    def endless():
        try:
            while True:
                time.sleep(0.02)
                yield
        finally:
            closed.append(True)

    told = run(endless())
    run.last.stop()
    run.last.stop()
    late, stopped = run(endless()), run.last
    other = run(_count(2, [], 0.02))
    run.until(lambda: other)
    stopped.stop()
    assert closed == [True] and told == late == []


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.arange(24, dtype=">f4").reshape(2, 3, 4),
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.arange(48, dtype=np.uint8).reshape(2, 6, 4)[:, ::2],
        np.zeros((0, 3, 4), np.uint8),
    ],
    ids=["int16", "big-endian", "Fortran's order", "every second row", "empty"],
)
def test_what_is_written_is_read_again(run, array: np.ndarray, tmp_path: Path, monkeypatch) -> None:
    from MedQuantSlicerLib import turns

    monkeypatch.setattr(turns, "PIECE_BYTES", 1)
    blocks = [array[part] for part in turns.pieces_of(array.shape, array.itemsize)]
    assert len(blocks) == len(array)
    told = run(turns.writing(str(tmp_path / "a.npy"), array.shape, array.dtype, blocks))
    run.until(lambda: told)
    found = np.load(tmp_path / "a.npy", mmap_mode="r" if array.size else None)
    assert found.dtype == array.dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, array)


def test_a_folder_that_is_gone_is_a_failure(run, tmp_path: Path) -> None:
    from MedQuantSlicerLib import turns

    told = run(turns.writing(str(tmp_path / "gone" / "a.npy"), (1,), np.uint8, [np.zeros(1, np.uint8)]))
    run.until(lambda: told)
    assert isinstance(told[0][1], OSError)
