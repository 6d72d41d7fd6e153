"""What is benchmarked: a network, the scans that calibrate it and the cases that test it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medquant.bench.cell import Case
from medquant.bench.networks import Network
from medquant.errors import UserError
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation


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
