"""The benchmark in small: networks and cases that are at hand, so that it runs on a laptop in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from medquant.bench.medquanbench.plan import PRODUCT, Setting, settings
from medquant.bench.medquanbench.subjects import FileCase, Subject
from medquant.bench.networks import NamedNetwork
from medquant.bench.organ_case import TEST_SCAN, OrganModel, test_cube
from medquant.embedded.phantom import make_phantom
from medquant.embedded.unetr_demo.dataset import PHANTOM_SHAPE, PHANTOM_SPACING
from medquant.imaging.volume import Volume
from medquant.models.base import Model
from medquant.segmentation import Segmentation, Structure

FOUND_BY_FP32 = 0.5
"""Structures that FP32 finds worse than this are left out: the real network misses some on this scan."""
SOLVER = "permutation-comq"
METHODS = ("rtn", SOLVER, PRODUCT)
PART = (40, 126, 162)
"""Voxels (k, j, i) of a phantom: what saves the nnU-Net patches; the UNETR gets all that it was trained on."""
CALIBRATION_SEED, TEST_SEEDS = 950, (901, 902, 903)
"""No model was trained on phantoms of these seeds."""
INPUTS = 3
"""Patches that calibrate: few, for time's sake."""


@dataclass(frozen=True)
class OrganNetwork:
    """The plain U-Net with public weights that `medquant bench quality` measures."""

    weights: Path

    @property
    def name(self) -> str:
        return self.weights.stem

    def load(self, device: str) -> Model:
        """Raises `UserError` where the weights are missing."""
        model = OrganModel.load(self.weights)
        model.network.to(device)
        return model


@dataclass(frozen=True)
class OrganScan:
    """The scan that tests it, cut and resampled to its input."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        return self.image.parent.name

    def volume(self) -> Volume:
        return _cube(self.image, self.labels)[0]

    def reference(self) -> Segmentation:
        return _cube(self.image, self.labels)[1]


@dataclass(frozen=True)
class PhantomScan:
    """A phantom of one seed, as far as the scan goes."""

    seed: int
    shape: tuple[int, int, int]
    dataset: ClassVar[str] = "phantoms"

    @property
    def name(self) -> str:
        return f"phantom {self.seed}"

    def volume(self) -> Volume:
        return _phantom(self.seed, self.shape)[0]

    def reference(self) -> Segmentation:
        return _phantom(self.seed, self.shape)[1]


def subjects(data: Path | None) -> list[Subject]:
    """A real U-Net on a real CT, where there is a folder of them, then a UNETR and an nnU-Net on phantoms."""
    embedded = [
        Subject(
            NamedNetwork(name),
            (PhantomScan(CALIBRATION_SEED, shape),),
            tuple(PhantomScan(seed, shape) for seed in TEST_SEEDS),
            INPUTS,
        )
        for name, shape in (("embedded-unetr", PHANTOM_SHAPE), ("embedded-nnunet", PART))
    ]
    if data is None:
        return embedded
    network = OrganNetwork(data / "weights" / "allconvunet" / "allconvunet_tcia_fold2.pth")
    calibration = FileCase(data / "ct_calibration_dicom" / "series")
    return [Subject(network, (calibration,), (OrganScan(*(data / name for name in TEST_SCAN)),), INPUTS), *embedded]


def mini_settings() -> list[Setting]:
    """The paper's, and a better solver where it can be of use: at 4 bits, and not with one scale for all weights."""
    return [
        one
        for one in settings(methods=METHODS)
        if one.method != SOLVER or (one.precision == "W4A4" and one.granularity != "per-tensor")
    ]


@lru_cache(maxsize=1)
def _cube(image: Path, labels: Path) -> tuple[Volume, Segmentation]:
    return test_cube(image, labels)


@lru_cache(maxsize=6)
def _phantom(seed: int, shape: tuple[int, int, int]) -> tuple[Volume, Segmentation]:
    image, labels, names, affine = make_phantom(seed, shape, PHANTOM_SPACING)
    volume = Volume(image, affine, name=f"phantom {seed}", modality="CT")
    return volume, Segmentation(labels, volume, tuple(Structure(value, name) for value, name in names.items()))
