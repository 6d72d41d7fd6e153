"""How much memory a piece of work takes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from medquant.memory import PeakMemory


def test_a_large_array_is_seen_after_it_is_gone() -> None:
    with PeakMemory() as memory:
        array = np.ones(25_000_000)
        time.sleep(0.05)
        del array
    assert 150 < memory.extra_mb < 400
    assert memory.peak_mb >= memory.start_mb > 1


def test_the_watcher_ends_with_the_work() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="bug"), PeakMemory():
        raise ValueError("bug")
    assert threading.active_count() == before
