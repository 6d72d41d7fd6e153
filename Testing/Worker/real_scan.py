"""A warm worker and a real scan that was handed over to it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from event_loop import EventLoop

from medquant.imaging.volume import Volume

LIVER = 5
SLICES = (9, 11)


@dataclass
class Bench:
    """A warm worker and a scan that was handed over to it."""

    loop: EventLoop
    engine: Any
    scan: Volume
    labels: np.ndarray
    volume: dict[str, Any]

    def boxes(self, affine: np.ndarray | None = None) -> list[dict[str, Any]]:
        """A box around the liver on a few slices, by its eight corners."""
        affine = self.scan.affine if affine is None else affine
        first, last = SLICES
        _, j, i = np.nonzero(self.labels[first : last + 1] == LIVER)
        ranges = ((i.min(), i.max()), (j.min(), j.max()), SLICES)
        corners = [(affine @ (*corner, 1.0))[:3].tolist() for corner in itertools.product(*ranges)]
        return [{"name": "liver", "label": 3, "corners": corners}]

    def segment(self, model: str = "embedded", **more: Any) -> dict[str, Any]:
        """Masks by PyTorch, which starts at once."""
        asked = {"model": model, "of": "embedded", "volume": self.volume, "boxes": self.boxes(), "runtime": "pytorch"}
        return self.loop.result(self.engine, "segment", {**asked, **more})

    def array(self, told: dict[str, Any]) -> np.ndarray:
        """What is in a file of an answer."""
        return np.load(self.engine.path(told["array"]))

    def whole(self, told: dict[str, Any]) -> np.ndarray:
        """Labels on the scan's grid."""
        whole = np.zeros(self.scan.shape, np.uint8)
        part = self.array(told)
        whole[tuple(slice(at, at + size) for at, size in zip(told["offset"], part.shape, strict=True))] = part
        return whole

    def hand_over(self, name: str, array: np.ndarray, affine: np.ndarray | None = None) -> dict[str, Any]:
        """An array as a scan."""
        np.save(self.engine.folder / name, array)
        matrix = self.scan.affine if affine is None else affine
        return {"array": name, "ijk_to_lps": matrix.tolist(), "modality": "CT", "name": "scan"}
