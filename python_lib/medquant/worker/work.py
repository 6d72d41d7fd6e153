"""One request on its way: how it tells how far it is, and hears that it is to stop."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.progress import Progress, ProgressEvent
from medquant.worker.channel import Channel

if TYPE_CHECKING:
    from medquant.worker.warm import Warm

SECONDS_BETWEEN_REPORTS = 0.1
STOPPED = {"kind": "cancelled", "message": "Stopped."}


@dataclass
class Work:
    """A request while it runs."""

    id: int
    method: str
    params: dict[str, Any]
    channel: Channel
    folder: Path
    """Where arrays are exchanged."""
    warm: Warm
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: bool = False
    _answered: bool = False
    _reported: float = 0.0
    _step: str = ""

    @property
    def cancelled(self) -> bool:
        """Whether it is to stop."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Stop. Work that has not begun is answered at once; other work ends at its next check, which is its answer."""
        self._stop.set()
        with self._lock:
            begun = self._begun
        if not begun:
            self.answer(error=STOPPED)

    def begin(self) -> bool:
        """Its turn has come: say so. False where it was cancelled before."""
        with self._lock:
            if self._answered or self.cancelled:
                return False
            self._begun = True
            self.channel.send(id=self.id, begun=True)
            return True

    def answer(self, **content: Any) -> bool:
        """The one answer, `result` or `error`; False where there was one already. What was cancelled has no result."""
        with self._lock:
            if self._answered:
                return False
            if "result" in content and self.cancelled:
                content = {"error": STOPPED}
            self.channel.send(id=self.id, **content)
            self._answered = True
            return True

    def part(self, start: float = 0.0, stop: float = 1.0) -> Progress:
        """The progress of a part of the bar, for the engine's functions; the time left is told in the last part."""

        def report(event: ProgressEvent) -> None:
            left = event.seconds_left if stop == 1.0 else None
            self._report(start + (stop - start) * event.fraction, event.message, left)

        return Progress(report, self._stop.is_set)

    def partial(self, **content: Any) -> None:
        """Something that is known before the end."""
        self._unless_answered(partial=content)

    def _report(self, fraction: float, text: str, seconds_left: float | None) -> None:
        now, step = time.monotonic(), re.sub(r"\d+", "", text)
        if step == self._step and now - self._reported < SECONDS_BETWEEN_REPORTS:
            return  # what is done now is told at once, how far it is now and then
        self._reported, self._step = now, step
        self._unless_answered(progress={"fraction": round(fraction, 4), "text": text, "seconds_left": seconds_left})

    def _unless_answered(self, **content: Any) -> None:
        with self._lock:
            if not self._answered:
                self.channel.send(id=self.id, **content)
