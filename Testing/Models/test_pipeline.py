"""Three steps on neighbouring pieces of work: in order, side by side, stopped by the first error."""

from __future__ import annotations

import threading

import pytest

from medquant.errors import Cancelled
from medquant.models.pipeline import pipelined
from medquant.progress import Progress


def test_every_item_goes_through_every_step_in_order() -> None:
    finished: list[int] = []
    pipelined(range(9), lambda n: n + 1, lambda n: 10 * n, finished.append, progress=Progress(), what="Slice")
    assert finished == [10 * (n + 1) for n in range(9)]


def test_the_next_is_prepared_and_the_last_finished_while_one_runs() -> None:
    """Item 1 runs only until item 2 is prepared and item 0 finished: one after the other, this would never end."""
    prepared, finished = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def run(n: int) -> int:
        if n == 1:
            assert prepared[2].wait(30)
            assert finished[0].wait(30)
        return n

    pipelined(
        range(4),
        lambda n: (prepared[n].set(), n)[1],
        run,
        lambda n: finished[n].set(),
        progress=Progress(),
        what="Slice",
    )
    assert all(event.is_set() for event in finished)


@pytest.mark.parametrize("broken", ["prepare", "run", "finish"])
@pytest.mark.parametrize("where", [0, 2, 4])
def test_the_first_error_of_any_step_is_raised(broken: str, where: int) -> None:
    def step(name: str):
        def work(n: int) -> int:
            if name == broken and n == where:
                raise ValueError(f"{name} {n}")
            return n

        return work

    with pytest.raises(ValueError, match=f"{broken} {where}"):
        pipelined(range(5), step("prepare"), step("run"), step("finish"), progress=Progress(), what="Slice")


def test_at_most_one_item_is_ahead() -> None:
    lock, prepared, ran = threading.Lock(), [0], [0]
    ahead: list[int] = []

    def prepare(n: int) -> int:
        with lock:
            prepared[0] += 1
            ahead.append(prepared[0] - ran[0])
        return n

    def run(n: int) -> int:
        with lock:
            ran[0] += 1
        return n

    pipelined(range(20), prepare, run, lambda n: None, progress=Progress(), what="Slice")
    assert max(ahead) <= 2


def test_nothing_runs_once_stopped() -> None:
    ran: list[int] = []
    with pytest.raises(Cancelled):
        pipelined(
            range(50),
            lambda n: n,
            ran.append,
            lambda n: None,
            progress=Progress(None, lambda: len(ran) >= 3),
            what="Slice",
        )
    assert len(ran) <= 4
