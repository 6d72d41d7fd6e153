"""What is benchmarked: a network from anywhere, the scans that calibrate it and the cases that test it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

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


def fingerprint(case: Case) -> str:
    """What tells a case from another: its fields, and for those that are files their names, sizes and times.

    A case that is no dataclass is known by its voxels.
    """
    digest = hashlib.sha256(case.name.encode())
    if is_dataclass(case):
        for part in _parts_of(case):
            digest.update(f"{part}\n".encode())
    else:
        digest.update(case.volume().content_hash().encode())
    return digest.hexdigest()


def _parts_of(value: Any) -> Iterator[str]:
    """The plain values in a case in a fixed order; of a folder all files inside."""
    if isinstance(value, Path):
        for file in sorted(value.rglob("*")) if value.is_dir() else [value]:
            if file.is_file():
                facts = file.stat()
                yield f"{file.name} {facts.st_size} {facts.st_mtime_ns}"
    elif isinstance(value, dict):
        yield from _parts_of(tuple(value.items()))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _parts_of(entry)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts_of(getattr(value, field.name))
    else:
        yield repr(value)
