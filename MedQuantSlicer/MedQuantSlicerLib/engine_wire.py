"""What goes between panel and engine: JSON lines, over whatever starts the process and carries its bytes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

LONGEST_LINE = 64_000_000

_log = logging.getLogger("medquant.panel")


class Transport(Protocol):
    """One start of the process. Its callbacks come in the thread of the event loop, and none after `on_exit`."""

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the program with these variables added to the environment; a failure ends in `on_exit(None)`."""

    def send(self, data: bytes) -> None:
        """Write to its standard input, without waiting."""

    def kill(self, wait: bool = False) -> None:
        """End it at once; `wait`: and come back when it has ended, or after a second."""


MakeTransport = Callable[[Callable[[bytes], None], Callable[["int | None"], None]], Transport]
"""`make(on_bytes, on_exit)`: `on_bytes(data)` with what comes from standard output, in any pieces, and once
`on_exit(code)`: the exit code, minus the signal where one ended it, None where it could not be started."""


class Messages:
    """Puts together what the engine says."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that end in these bytes; what is none is left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for one in lines:
            try:
                message = json.loads(one)
                if not isinstance(message, dict):
                    raise ValueError("no message")
            except ValueError:
                if one.strip():
                    _log.warning("the engine said something that is no message: %r", one[:200])
                continue
            yield message


def line(**message: Any) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def number(value: Any) -> float:
    """A number that was told; 0 where it is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
