"""The time left, as a person wants to read it: none before it can be known, and none that jumps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from medquant.progress import ProgressEvent

FIRST_AFTER_SECONDS = 5.0
"""No time left is told before so much was worked: first steps are seldom like the others."""
STEADY_SECONDS = 15.0
"""How fast the end that is told follows the estimate, which every other program's work shakes."""


class Countdown:
    """Follows the events of one piece of work, and tells when it will end."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._restart()

    def hear(self, event: ProgressEvent) -> None:
        """Take over what an event says."""
        now = self._now()
        if event.fraction < self._fraction:  # the next piece of work
            self._restart()
        self._fraction = event.fraction
        if event.seconds_left is None or now - self._began < FIRST_AFTER_SECONDS:
            return
        end = now + event.seconds_left
        if self._end is None:
            self._end = end
        else:
            slow = min(STEADY_SECONDS, event.seconds_left / 2)  # near the end it must be right
            followed = 1 - math.exp((self._heard - now) / slow) if slow > 0 else 1.0
            self._end += followed * (end - self._end)
        self._heard = now

    def seconds_left(self) -> float | None:
        """Now; None before there is an estimate."""
        end = self._end  # another thread may begin the next piece of work
        return None if end is None else max(0.0, end - self._now())

    def _restart(self) -> None:
        self._began = self._heard = self._now()
        self._fraction, self._end = 0.0, None
