"""What the worker says: one line of JSON for each message, whole, whoever else writes at the same time."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any, BinaryIO


class Channel:
    """Writes messages to a stream that nobody else writes to."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def send(self, **message: Any) -> None:
        """One message. Raises `OSError` where nobody reads any more."""
        line = json.dumps(_finite(message), allow_nan=False, default=_plain, separators=(",", ":")) + "\n"
        with self._lock:
            self._stream.write(line.encode("ascii"))
            self._stream.flush()


def _plain(value: Any) -> Any:
    """Numbers of numpy, paths and tuples' kin as JSON knows them."""
    if hasattr(value, "item"):
        return _finite(value.item())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _finite(value: Any) -> Any:
    """Numbers that JSON does not know become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
