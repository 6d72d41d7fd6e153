"""Work on large arrays in pieces, one after the other between the events of the application, which never waits.

Not in a thread: in Slicer a Python thread runs only while the application executes Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import qt

TURN_SECONDS = 0.01
"""Short pieces share a turn of the event loop up to here."""
PIECE_BYTES = 2_000_000
"""Of a piece: a few milliseconds."""

_running: set[Turns] = set()
"""Nobody else keeps the timers."""


class Turns:
    """Runs a generator to its end. Then `done(what it returned)`, or `failed(error)`; nothing after `stop`."""

    def __init__(
        self, pieces: Generator[None, None, Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        self._pieces, self._done, self._failed = pieces, done, failed
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._turn)
        self._timer.start()
        _running.add(self)

    def stop(self) -> None:
        """Leave it unfinished."""
        if self in _running:
            _running.discard(self)
            timer = self._timer
            timer.stop()
            timer.timeout.disconnect(self._turn)
            # PythonQt deletes it with the last reference, and it may be just now that it calls us.
            qt.QTimer.singleShot(0, lambda: timer.stop())
            self._pieces.close()

    def _turn(self) -> None:
        end = time.monotonic() + TURN_SECONDS
        try:
            while time.monotonic() < end:
                next(self._pieces)
        except StopIteration as last:
            self.stop()
            self._done(last.value)
        except Exception as error:
            self.stop()
            self._failed(error)


def pieces_of(shape: tuple[int, ...], item_bytes: int) -> Iterator[slice]:
    """An array's first axis in pieces that are quick to work on."""
    row = item_bytes
    for size in shape[1:]:
        row *= size
    step = max(1, PIECE_BYTES // max(1, row))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def writing(path: str, shape: tuple[int, ...], dtype: Any, blocks: Iterable[Any]) -> Generator[None, None, None]:
    """Write an array, which comes in blocks along its first axis, to a `.npy` file."""
    import numpy as np

    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    with Path(path).open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, about)
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8))
            yield
