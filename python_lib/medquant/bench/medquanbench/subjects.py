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
        """With the last words of the weights' path, which tell one trained network from another."""
        return self.spec if self.weights is None else f"{self.spec} {'/'.join(Path(self.weights).parts[-2:])}"

    def load(self, device: str) -> Model:
        """Raises `UserError` for a model that is quantized already, and as `load_model` does."""
        model = load_model(self.spec, weights=self.weights, device=device, **json.loads(self.options))
        if not isinstance(model, Model):
            raise UserError(f"{self.spec} is quantized already. Give the model that it was made from.")
        return model


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
