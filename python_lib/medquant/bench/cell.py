"""A cell of a benchmark, as every benchmark has it: a network under a setting, on a case."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medquant.artifact import SUFFIX
from medquant.bench.identity import key_of
from medquant.bench.networks import Network, loaded, quantized
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import Model
from medquant.progress import Progress
from medquant.quantized_model import QuantizedModel
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
    identity: str
    """A hash of the network's `Model.identity`, of which the keys are: its files may be others on another machine."""

    def describe(self) -> str:
        """In words, for progress and errors."""
        return f"{self.network.name}, {self.setting.describe()}, {self.case.name}"

    def original(self, device: str) -> Model:
        """The FP32 model, kept as `loaded` does. Raises `UserError` where it is not the one that the keys are of."""
        model = loaded(self.network, device)
        if key_of(model.identity) != self.identity:
            raise UserError(
                f"{socket.gethostname()} has other weights of {self.network.name} than the program that was started. "
                "Put the same files on every machine, and run again."
            )
        return model

    def model(self, models: Path, device: str, quantize: Callable[[Model], QuantizedModel]) -> Model | QuantizedModel:
        """The FP32 model, or where there is a recipe the quantized one, which `quantize` makes if `models` lacks it."""
        original = self.original(device)
        if self.setting.recipe is None:
            return original
        return quantized(self.network, device, models / f"{self.model_key}{SUFFIX}", quantize)

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
