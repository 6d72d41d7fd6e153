"""How much memory a piece of work takes, whether it sufficed, and giving it back."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from medquant.memory import PeakMemory, give_back_memory, lacks_memory


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


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 TiB"), True),
        (RuntimeError("Exception: std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (AssertionError(), False),
    ],
)
def test_a_failed_allocation_is_known_whoever_says_it(error: Exception, lacking: bool) -> None:
    assert lacks_memory(error) == lacking


def test_what_only_holds_itself_is_given_back() -> None:
    class Session:
        pass

    session = Session()
    session.itself, held = session, weakref.ref(session)
    gc.disable()
    try:
        del session
        assert held() is not None
        give_back_memory()
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries give back by themselves")
def test_freed_pieces_go_back_to_the_system() -> None:
    with PeakMemory() as memory:
        pieces = [np.ones(8_000) for _ in range(3_000)]  # 64 kB each: too small for mappings of their own
        last = np.ones(8_000)
        del pieces
        give_back_memory()
        time.sleep(0.02)
        left = memory._resident() - memory.start_mb
    assert memory.extra_mb > 100 and left < 0.5 * memory.extra_mb and last.any()
