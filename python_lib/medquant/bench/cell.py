"""A cell of a benchmark, as every benchmark has it: a network under a setting, on a case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medquant.bench.networks import Network
from medquant.imaging.volume import Volume
from medquant.progress import Progress
from medquant.recipe import Recipe
from medquant.segmentation import Segmentation


class Case(Protocol):
    """A scan with its reference, as `medquant.datasets` gives them; it travels to other processes."""

    name: str

    def volume(self) -> Volume:
        """The scan."""

    def reference(self) -> Segmentation:
        """The reference on the scan's grid."""


class Setting(Protocol):
    """What is done to a network."""

    recipe: Recipe | None
    """None: nothing, FP32."""

    def describe(self) -> str:
        """In a few words."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkCell(ABC):
    """One measurement, which knows how it is made. It travels to other processes, so it holds no weights and voxels."""

    network: Network
    setting: Setting
    case: Case
    key: str
    """Of all that decides its figures."""
    model_key: str
    """Of the quantized model: cells that differ in nothing but the case share it."""

    def describe(self) -> str:
        """In words, for progress and errors."""
        return f"{self.network.name}, {self.setting.describe()}, {self.case.name}"

    @abstractmethod
    def code(self) -> str:
        """A hash of the code in this process that decides the figures."""

    @abstractmethod
    def measure(self, models: Path, *, device: str, threads: int, progress: Progress) -> dict[str, Any]:
        """The row: plain data, with the cell's `key`.

        `models`: folder of this machine for quantized models. The figures do not depend on where or in which order
        cells run; with other `threads` sums may be rounded otherwise. Raises `UserError` for what cannot be measured,
        and `Cancelled`.
        """
