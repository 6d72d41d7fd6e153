"""The engine's process by Qt: its output arrives as events, so nothing waits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt

from MedQuantSlicerLib.engine_process import LOG

_ending: set[QProcessTransport] = set()
"""Those that were killed and have not ended yet: nobody waits for them, and Qt must not lose them meanwhile."""


class QProcessTransport:
    """One start of the process; see `engine_wire.Transport`."""

    def __init__(self, on_bytes: Callable[[bytes], None], on_exit: Callable[[int | None], None]) -> None:
        self._on_bytes, self._on_exit = on_bytes, on_exit
        self._process = qt.QProcess()
        self._process.readyReadStandardOutput.connect(self._read)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._failed)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the program."""
        variables = qt.QProcessEnvironment.systemEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        self._process.setProcessEnvironment(variables)
        # The engine has a log of its own; this one tells why it could not even begin. The folder is the last argument.
        self._process.setStandardErrorFile(str(Path(command[-1]) / LOG), qt.QIODevice.Append)
        self._process.start(command[0], list(command[1:]))

    def send(self, data: bytes) -> None:
        """Qt keeps what the pipe does not take yet."""
        if self._process is not None:
            self._process.write(qt.QByteArray(data))

    def kill(self, wait: bool = False) -> None:
        """End it; the system needs a while to take a large program's memory back."""
        if self._process is None or self._process.state() == qt.QProcess.NotRunning:
            return
        _ending.add(self)
        self._process.kill()
        if wait:
            self._process.waitForFinished(1000)

    # -- what Qt tells

    def _read(self) -> None:
        data = self._process.readAllStandardOutput().data() if self._process is not None else b""
        if data:
            self._on_bytes(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data))

    def _finished(self, code: int = 0, status: Any = None) -> None:
        self._read()
        if self._process is None:
            return
        crashed = self._process.exitStatus() == qt.QProcess.CrashExit
        # After a crash Qt's code is the number of the signal, where there are signals.
        self._end(-code if crashed and os.name == "posix" else code)

    def _failed(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            self._end(None)

    def _end(self, code: int | None) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        # Connections to our own methods would keep both alive for ever.
        process.readyReadStandardOutput.disconnect(self._read)
        process.finished.disconnect(self._finished)
        process.errorOccurred.disconnect(self._failed)
        # PythonQt deletes it with the last reference, and it is still telling us that it has ended.
        qt.QTimer.singleShot(0, lambda: process.deleteLater())
        _ending.discard(self)
        self._on_exit(code)
