"""Work in a thread of its own, so that the wish to stop is heard at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from medquant.progress import Progress

POLL_SECONDS = 0.05

T = TypeVar("T")


def stoppable_call(work: Callable[[], T], progress: Progress) -> T:
    """What `work()` gives. Raises `Cancelled` as soon as the user asks; what the work still gives then is dropped."""
    worker = ThreadPoolExecutor(1, thread_name_prefix="work")
    try:
        return result_of(worker.submit(work), progress)
    finally:
        worker.shutdown(wait=False, cancel_futures=True)


def result_of(future: Future[T], progress: Progress) -> T:
    """The result of a future, or `Cancelled` as soon as the user asks."""
    progress.check()
    while not future.done():
        wait([future], timeout=POLL_SECONDS)
        progress.check()
    return future.result()
