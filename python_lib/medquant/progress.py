"""How long work reports itself and is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medquant.errors import Cancelled

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ProgressEvent:
    """One step of long work: what happens now, how far it is, how long it will still take."""

    message: str
    """What is happening, in words: "Calibrating layer 17 of 48"."""
    fraction: float
    """Done part of the whole, 0 to 1."""
    seconds_left: float | None = None
    """Estimated from what was measured so far; None while nothing was measured."""


ProgressCallback = Callable[[ProgressEvent], None]
CancelCheck = Callable[[], bool]
PartialCallback = Callable[["np.ndarray", tuple[int, int, int]], None]
"""Takes a block of labels (k, j, i) that has just become known, and the voxel (k, j, i) of the scan where it begins."""


@dataclass
class Progress:
    """Carries a progress callback and a cancel check through nested work.

    `span` gives a part of the bar to a part of the work; `report` raises `Cancelled` when the user asked to stop,
    so work that reports at least once a second also stops within a second.
    """

    callback: ProgressCallback | None = None
    cancelled: CancelCheck | None = None
    start: float = 0.0
    stop: float = 1.0
    began: float = field(default_factory=time.monotonic)
    partial: PartialCallback | None = None

    def check(self) -> None:
        """Raise `Cancelled` if the user asked to stop."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Stopped. Nothing was written.")

    def report(self, fraction: float, message: str) -> None:
        """Report `fraction` (0 to 1) of this span as done."""
        self.check()
        if self.callback is None:
            return
        overall = self.start + (self.stop - self.start) * min(max(fraction, 0.0), 1.0)
        elapsed = time.monotonic() - self.began
        left = elapsed * (1.0 - overall) / overall if overall > 0.02 and elapsed > 1.0 else None
        self.callback(ProgressEvent(message, overall, left))

    def callbacks(self, prefix: str = "") -> dict[str, Any]:
        """This span as `progress` and `cancelled`, as the engine's functions take them; `prefix` goes to messages."""

        def report(event: ProgressEvent) -> None:
            self.report(event.fraction, f"{prefix}: {event.message}" if prefix else event.message)

        return {"progress": report, "cancelled": self.cancelled}

    def span(self, start: float, stop: float) -> Progress:
        """The same work seen from a part of it: 0 to 1 there is `start` to `stop` here."""
        width = self.stop - self.start
        return Progress(
            self.callback,
            self.cancelled,
            self.start + width * start,
            self.start + width * stop,
            self.began,
            self.partial,
        )
