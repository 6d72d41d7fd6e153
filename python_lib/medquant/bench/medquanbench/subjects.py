"""What is benchmarked: a network from anywhere, the scans that calibrate it and the cases that test it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medquant.errors import UserError
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.models.base import Model
from medquant.models.registry import load_model
from medquant.quantized_model import require_original
from medquant.segmentation import Segmentation


class Case(Protocol):
    """A scan with its reference, as `medquant.datasets` gives them; it travels to other processes."""

    name: str

    def volume(self) -> Volume:
        """The scan."""

    def reference(self) -> Segmentation:
        """The reference on the scan's grid."""


class Network(Protocol):
    """Where a model comes from: small, hashable, and it travels to other processes."""

    name: str

    def load(self, device: str) -> Model:
        """The FP32 model on a device."""


@dataclass(frozen=True)
class NamedNetwork:
    """A model of the registry, by name or path."""

    spec: str
    weights: str | None = None
    options: str = "{}"
    """Of the adapter, as JSON."""

    @property
    def name(self) -> str:
        """Of a path its end; with the last words of the weights' path, which tell one trained network from another."""
        spec = Path(self.spec).name if Path(self.spec).is_absolute() else self.spec
        return spec if self.weights is None else f"{spec} {'/'.join(Path(self.weights).parts[-2:])}"

    def load(self, device: str) -> Model:
        """Raises `UserError` for a model that is quantized already, and as `load_model` does."""
        options = json.loads(self.options)
        return require_original(load_model(self.spec, weights=self.weights, device=device, **options))


@dataclass(frozen=True)
class FileCase:
    """A scan and a label file; without one it only calibrates."""

    image: Path
    labels: Path | None = None

    @property
    def name(self) -> str:
        return self.image.name.partition(".")[0]

    def volume(self) -> Volume:
        return read_volume(self.image)

    def reference(self) -> Segmentation:
        """Raises `UserError` where there is none."""
        if self.labels is None:
            raise UserError(f"{self.image.name} has no labels. Give them with --labels.")
        return read_labels(self.labels, self.volume())


@dataclass(frozen=True)
class Subject:
    """A network, the scans that calibrate it (without a look at their references), and the cases that test it."""

    network: Network
    calibration: tuple[Case, ...]
    cases: tuple[Case, ...]
    inputs: int = 8
    """Slices or patches of each scan that calibrate."""
