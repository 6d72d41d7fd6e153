"""The files in which scans, masks and references are handed over: written when they are needed, a scan once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from MedQuantSlicerLib.engine_process import EngineProcess
from MedQuantSlicerLib.host import Host, Stop, VolumeInfo

Told = dict[str, Any]
Then = Callable[[Told], None]
Failed = Callable[[Exception], None]


class ScanFiles:
    """Files in the engine's private folder. What is to be written is written while the application goes on."""

    def __init__(self, engine: EngineProcess, host: Host) -> None:
        self._engine, self._host = engine, host
        self._number = 0
        self._volume: tuple[str, Told] | None = None
        self._stop: Stop | None = None

    def volume(self, info: VolumeInfo, then: Then, failed: Failed) -> None:
        """`then` gets the chosen scan as the engine takes it: at once, where it was written before."""
        if self._volume is not None and self._volume[0] == info.key:
            then(self._volume[1])
            return
        self.forget()
        name = self._name("volume")

        def written() -> None:
            self._volume = info.key, as_params(info, name)
            then(self._volume[1])

        self._write(name, self._host.write_volume, lambda _: written(), failed)

    def reference(self, then: Then, failed: Failed) -> None:
        """`then` gets the chosen reference as the engine takes it, `failed` a `ValueError` where it does not fit."""
        name = self._name("reference")

        def written(labels: Mapping[int, str]) -> None:
            then({"array": name, "labels": {str(value): text for value, text in labels.items()}})

        self._write(name, self._host.write_reference, written, failed)

    def masks(self, kind: str, then: Then, failed: Failed) -> None:
        """`then` gets the masks of a kind as they are in the scene now."""
        name = self._name(kind)

        def written(labels: Mapping[int, str]) -> None:
            then({"array": name, "offset": None, "labels": {str(value): text for value, text in labels.items()}})

        self._write(name, lambda *told: self._host.write_masks(kind, *told), written, failed)

    def stop(self) -> bool:
        """Stop writing; nothing is called any more. False where nothing was being written."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
        return stop is not None

    def discard(self, told: Mapping[str, Any] | None) -> None:
        """An array that is no longer needed."""
        if told and "array" in told:  # what comes from a saved scene has none
            self._engine.discard(told["array"])

    def discard_all(self, told: Mapping[str, Any]) -> None:
        """The arrays of an answer that nobody waits for any more."""
        for one in told.values():
            if isinstance(one, Mapping):
                self.discard(one)

    def forget(self) -> None:
        """The scan is not the chosen one any more."""
        self.stop()
        if self._volume is not None:
            self._engine.discard(self._volume[1]["array"])
            self._volume = None

    def _write(self, name: str, write: Callable[..., Stop], then: Callable[[Any], None], failed: Failed) -> None:
        ended = False

        def end(call: Callable[[Any], None], content: Any) -> None:
            nonlocal ended
            ended, self._stop = True, None
            call(content)

        def remove(error: Exception) -> None:
            self._engine.discard(name)
            failed(error)

        try:
            stop = write(
                self._engine.path(name), lambda content=None: end(then, content), lambda error: end(remove, error)
            )
        except Exception as error:
            end(remove, error)
            return
        if not ended:
            self._stop = lambda: (stop(), self._engine.discard(name))

    def _name(self, stem: str) -> str:
        self._number += 1
        return f"{stem}-{self._number}.npy"


def as_params(volume: VolumeInfo, array: str) -> dict[str, Any]:
    """A scan as the engine takes it."""
    told = asdict(volume)
    return {"array": array, **{name: told[name] for name in ("ijk_to_lps", "modality", "name")}}
