"""How much memory a piece of work takes, whether it sufficed, and giving it back."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from contextlib import suppress

import psutil

# What libraries write into a plain RuntimeError when an allocation fails.
_NO_MEMORY = ("allocate memory", "failed to allocate", "not enough memory", "out of memory", "bad_alloc")


class PeakMemory:
    """Context manager: samples this process's resident memory.

    `peak_mb` is the largest resident memory seen inside, `extra_mb` the same above the value at the start, both in
    MB (10^6 bytes). Sampling every 5 ms sees any tensor that lives long enough to matter.
    """

    def __init__(self, interval: float = 0.005) -> None:
        self.interval = interval
        self.start_mb = 0.0
        self.peak_mb = 0.0

    @property
    def extra_mb(self) -> float:
        """Peak above the resident memory at the start."""
        return max(0.0, self.peak_mb - self.start_mb)

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._stop = threading.Event()
        self.start_mb = self.peak_mb = self._resident()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, self._resident())

    def _resident(self) -> float:
        return self._process.memory_info().rss / 1e6

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self.peak_mb = max(self.peak_mb, self._resident())


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, as Python, PyTorch and the runtimes say it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def give_back_memory() -> None:
    """Return to the system what has been freed; the C library of Linux keeps it otherwise."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Return to the system what has been freed, without looking for more."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
