"""How busy other programs keep the processor while something is measured."""

from __future__ import annotations

import time

import psutil


class LoadOfOthers:
    """Context manager: `share` is the part of all cores, 0 to 1, that other programs took inside."""

    share = 0.0

    def __enter__(self) -> LoadOfOthers:
        self._process = psutil.Process()
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed, busy, own = (after - before for after, before in zip(self._now(), self._before, strict=True))
        if elapsed > 0:
            self.share = min(1.0, max(0.0, (busy - own) / (elapsed * (psutil.cpu_count() or 1))))

    def _now(self) -> tuple[float, float, float]:
        """Seconds by the clock, of all processes on all cores, and of this one."""
        times, own = psutil.cpu_times(), self._process.cpu_times()
        return time.perf_counter(), times.user + times.system, own.user + own.system
