"""Work in a thread of its own, so that the wish to stop is heard at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from medquant.progress import Progress

POLL_SECONDS = 0.05

T = TypeVar("T")


def stoppable_call(
    work: Callable[[], T],
    progress: Progress,
    *,
    patience: float = 0.0,
    afterwards: Callable[[], None] | None = None,
) -> T:
    """What `work()` gives. Raises `Cancelled` as soon as the user asks; what the work still gives then is dropped.

    Work that writes files is waited for, `patience` seconds at most, before `Cancelled` is raised, so that its files
    can be removed; `afterwards` is called where it ends later still.
    """
    worker = ThreadPoolExecutor(1, thread_name_prefix="work")
    future = worker.submit(work)
    try:
        return result_of(future, progress)
    except BaseException:
        wait([future], timeout=patience)
        if afterwards is not None and not future.done():
            future.add_done_callback(lambda _: afterwards())
        raise
    finally:
        worker.shutdown(wait=False, cancel_futures=True)


def result_of(future: Future[T], progress: Progress) -> T:
    """The result of a future, or `Cancelled` as soon as the user asks."""
    progress.check()
    while not future.done():
        wait([future], timeout=POLL_SECONDS)
        progress.check()
    return future.result()
