"""A real 3-D network with public weights, one scan to calibrate it on and another to test it on.

Mean Dice over the organs that are there and that the FP32 network itself finds (Dice above .5 against the reference),
against the FP32 masks and against the reference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medquant.bench.allconvunet import ORGANS, SIDE, AllConvUNet, box_around, load, to_cube, to_network_axes
from medquant.errors import UserError
from medquant.evaluation.metrics import dice as dice_of_masks
from medquant.files import sha256_of_file
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part, device_of, refuse_boxes
from medquant.models.body import body_mask
from medquant.models.network_part import network_part
from medquant.models.orientation import Reorientation
from medquant.network_edit import stoppable
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure

TEST_SCAN = ("ct_abdomen_3mm/ct.nii.gz", "ct_abdomen_3mm/labels.nii.gz")
"""The scan that tests and its reference, in the folder of real scans."""
REFERENCE_LABELS = {1: 1, 7: 2, 3: 3, 4: 4, 15: 5, 5: 6, 6: 7, 19: 8}
"""Label in the reference of `ct_abdomen_3mm` -> label of the network."""
BOXED = (1, 2, 3, 4, 6, 7)
"""Organs whose common bounding box, with a margin, is what the network sees."""
MARGIN = (6, 4, 2)
Crop = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""A part of the body's bounding box: from where to where along the network's three axes, 0 to 1."""
CROPS: tuple[Crop, ...] = (
    ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
    ((0.06, 0.94), (0.08, 0.92), (0.0, 0.85)),
    ((0.0, 0.9), (0.1, 1.0), (0.15, 1.0)),
    ((0.1, 1.0), (0.0, 0.9), (0.05, 0.95)),
    ((0.05, 0.85), (0.05, 1.0), (0.1, 0.9)),
    ((0.15, 0.95), (0.1, 0.95), (0.0, 0.75)),
)
"""What serves as calibration inputs."""
LEFT_RIGHT = 2
"""Axis of a network's input."""


class OrganModel(Model):
    """The network alone: this benchmark prepares its inputs itself."""

    family = "allconvunet"

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Model:
        raise UserError("This network belongs to the benchmark. Run `medquant bench quality`.")

    @classmethod
    def load(cls, source: str | Path, **_options: Any) -> Model:
        source = Path(source)
        if not source.is_file():
            raise UserError(f"There are no weights at {source}. Give the data folder with --data.")
        return cls(
            load(source),
            name=source.stem,
            spec={"family": cls.family},
            weights_hash=sha256_of_file(source),
            structures=tuple(Structure(label, name) for label, name in ORGANS.items()),
            modality="CT",
        )

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        for cube in cubes(volume, CROPS[: selection.count]):
            yield CalibrationBatch((cube,))

    def parts(self) -> dict[str, Part]:
        """ "network": cubes (1, 1, 144, 144, 144) in HU -> logits (1, 9, 144, 144, 144)."""
        return network_part(self.network, (1, 1, *(SIDE,) * 3))

    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """Labels of a scan that is the network's input already, as `test_cube` gives it. Raises `UserError` else."""
        refuse_boxes(self.name, prompt)
        if volume.shape != (SIDE,) * 3:
            raise UserError("This network belongs to the benchmark. Run `medquant bench quality`.")
        began = time.perf_counter()
        with torch.inference_mode(), stoppable(self.network, (progress or Progress()).check):
            logits = self.compute(
                "network", torch.from_numpy(volume.array.copy())[None, None].to(device_of(self.network))
            )
        labels = logits[0].argmax(0).cpu().numpy().astype(np.uint8)
        return Segmentation(labels, volume, self.structures, self.name, stages={"network": time.perf_counter() - began})


@dataclass(frozen=True)
class OrganCase:
    """A fold's network, the scans, and what FP32 makes of the one that tests."""

    model: OrganModel
    calibration: Volume
    cube: torch.Tensor
    """The network's input (1, 1, 144, 144, 144) of the scan that tests."""
    full: torch.Tensor
    """FP32's labels (144, 144, 144) there."""
    reference: torch.Tensor
    organs: tuple[int, ...]
    """Labels that count."""

    @classmethod
    def all(cls, data: Path, folds: Sequence[int]) -> Iterator[OrganCase]:
        """One of each fold, 1 or 2, from the folder of scans and weights. Raises `UserError` for what is missing."""
        calibration = read_volume(data / "ct_calibration_dicom" / "series")
        volume, known = test_cube(*(data / name for name in TEST_SCAN))
        cube, reference = torch.from_numpy(volume.array.copy())[None, None], torch.from_numpy(known.labels).long()
        for fold in folds:
            model = OrganModel.load(data / "weights" / "allconvunet" / f"allconvunet_tcia_fold{fold}.pth")
            full = logits_of(model.network, cube).argmax(1)[0]
            found = (label for label in ORGANS if (reference == label).any() and dice(full, reference, label) > 0.5)
            yield cls(model, calibration, cube, full, reference, tuple(found))

    def batches(
        self, crops: Sequence[Crop] = CROPS, *, first: int = 0, step: int = 1, mirrored: bool = False
    ) -> list[CalibrationBatch]:
        """Inputs of the scan that calibrates; of every so many of its slices, and left for right, if asked."""
        found = cubes(every(self.calibration, first, step), crops)
        return [CalibrationBatch((cube.flip(LEFT_RIGHT) if mirrored else cube,)) for cube in found]

    def scores(self, network: AllConvUNet) -> tuple[float, float]:
        """Mean Dice of another network's masks against FP32's and against the reference."""
        found = logits_of(network, self.cube).argmax(1)[0]
        return self.mean_dice(found, self.full), self.mean_dice(found, self.reference)

    def mean_dice(self, found: torch.Tensor, other: torch.Tensor) -> float:
        """Over the organs that count."""
        return float(np.mean([dice(found, other, label) for label in self.organs]))


def every(volume: Volume, first: int, step: int) -> Volume:
    """The slices `first`, `first + step` and so on of a scan, where they lie."""
    axis, affine = volume.slice_axis, volume.affine.copy()
    affine[:3, 3] += affine[:3, 2 - axis] * first
    affine[:3, 2 - axis] *= step
    slices = [slice(None)] * axis + [slice(first, None, step)]
    return replace(volume, array=np.ascontiguousarray(volume.array[tuple(slices)]), affine=affine)


def cubes(volume: Volume, crops: Sequence[Crop]) -> Iterator[torch.Tensor]:
    """The network's inputs (1, 1, 144, 144, 144) of parts of a scan's body."""
    body, array = to_network_axes(volume, body_mask(volume)), to_network_axes(volume)
    whole = box_around(body, (0, 0, 0))
    for crop in crops:
        yield to_cube(array, within(whole, crop))


def within(whole: tuple[slice, ...], crop: Crop) -> tuple[slice, ...]:
    """The voxels of a crop of a box."""
    return tuple(
        slice(round(w.start + (w.stop - w.start) * low), round(w.start + (w.stop - w.start) * high))
        for w, (low, high) in zip(whole, crop)
    )


def dice(a: torch.Tensor, b: torch.Tensor, label: int) -> float:
    """Dice of one label in two label maps; 1 where neither has it."""
    return dice_of_masks((a == label).numpy(), (b == label).numpy())


def test_cube(scan: Path, labels: Path) -> tuple[Volume, Segmentation]:
    """The network's input (144, 144, 144) of `TEST_SCAN`, along its three axes, and the reference on it."""
    volume = read_volume(scan)
    labels = read_labels(labels, volume).labels
    renamed = np.zeros(labels.shape, dtype=np.uint8)
    for theirs, ours in REFERENCE_LABELS.items():
        renamed[labels == theirs] = ours
    renamed = to_network_axes(volume, renamed)
    box = box_around(np.isin(renamed, BOXED), MARGIN)
    spacing = np.array(Reorientation.to(volume, "LAI").volume(volume).spacing[::-1])  # of the network's axes
    step = spacing * [along.stop - along.start for along in box] / SIDE
    # The network's axes grow to the left, the front and the feet: k, j, i of the cube.
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = -step[2], -step[1], step[0], 1.0
    cube = Volume(to_cube(to_network_axes(volume), box)[0, 0].numpy(), affine, name="ct_abdomen_3mm", modality="CT")
    on_cube = to_cube(renamed, box, labels=True)[0, 0].numpy().astype(np.uint8)
    structures = tuple(Structure(label, name) for label, name in ORGANS.items())
    return cube, Segmentation(on_cube, cube, structures)


def logits_of(network: AllConvUNet, cube: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(cube)
