"""Three steps on neighbouring pieces of work at once: the next is prepared and the last finished while one runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from medquant.background import result_of
from medquant.progress import Progress


def pipelined(
    items: Sequence[Any],
    prepare: Callable[[Any], Any],
    run: Callable[[Any], Any],
    finish: Callable[[Any], None],
    *,
    progress: Progress,
    what: str,
) -> None:
    """`finish(run(prepare(item)))` for every item, in order, each step in a thread of its own.

    At most one item is ahead and one behind, so the memory is that of three. Reports `what` 1 of n, 2 of n ... The
    first error of any step is raised here; the wish to stop is heard at once, even while `run` is busy: what it
    still gives is dropped.
    """
    steps = [ThreadPoolExecutor(1, thread_name_prefix=step.__name__) for step in (prepare, run, finish)]
    preparing, running, finishing = steps
    try:
        coming = preparing.submit(prepare, items[0])
        going: Future[None] | None = None
        for number in range(len(items)):
            progress.report(number / len(items), f"{what} {number + 1} of {len(items)}")
            ready = result_of(coming, progress)
            if number + 1 < len(items):
                coming = preparing.submit(prepare, items[number + 1])
            done = result_of(running.submit(run, ready), progress)
            if going is not None:
                result_of(going, progress)
            going = finishing.submit(finish, done)
        if going is not None:
            result_of(going, progress)
    finally:
        for step in steps:
            step.shutdown(wait=step is not running, cancel_futures=True)
