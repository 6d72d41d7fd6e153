"""The files in which scans, masks and references are handed over: written when they are needed, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from MedQuantSlicerLib.engine_process import EngineProcess
from MedQuantSlicerLib.facts import as_params
from MedQuantSlicerLib.host import Host, VolumeInfo


class ScanFiles:
    """Files in the engine's private folder."""

    def __init__(self, engine: EngineProcess, host: Host) -> None:
        self._engine, self._host = engine, host
        self._number = 0
        self._volume: tuple[str, dict[str, Any]] | None = None

    def volume(self, info: VolumeInfo) -> dict[str, Any]:
        """The chosen scan as the engine takes it. Raises `OSError` where it cannot be written."""
        if self._volume is None or self._volume[0] != info.key:
            self.forget()
            name = self._name("volume")
            self._host.write_volume(self._engine.path(name))
            self._volume = info.key, as_params(info, name)
        return self._volume[1]

    def reference(self) -> dict[str, Any]:
        """The chosen reference as the engine takes it. Raises `ValueError` where it does not fit the scan."""
        name = self._name("reference")
        labels = self._host.write_reference(self._engine.path(name))
        return {"array": name, "labels": {str(value): text for value, text in labels.items()}}

    def discard(self, told: Mapping[str, Any] | None) -> None:
        """An array that is no longer needed."""
        if told:
            self._engine.discard(told["array"])

    def forget(self) -> None:
        """The scan is not the chosen one any more."""
        if self._volume is not None:
            self._engine.discard(self._volume[1]["array"])
            self._volume = None

    def _name(self, stem: str) -> str:
        self._number += 1
        return f"{stem}-{self._number}.npy"
