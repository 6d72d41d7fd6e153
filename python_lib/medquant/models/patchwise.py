"""A network that sees a scan patch by patch: what MONAI's and the published networks share."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part, described, device_of
from medquant.models.body import calibration_region, choose_patches, require_usable
from medquant.models.network_part import first_output, network_part
from medquant.models.orientation import Reorientation
from medquant.models.sliding_window import sliding_window_logits
from medquant.models.torch_program import begin_without_boxes, label_type, named_by_number, patch_of
from medquant.models.volume_preprocessing import VolumePreprocessing, resized
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure


class PatchwiseModel(Model):
    """A network of one input channel with a sliding window."""

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.preprocessing = VolumePreprocessing.from_dict(self.spec["preprocessing"])
        self.roi_size: tuple[int, int, int] = tuple(self.spec["roi_size"])
        self.overlap = float(self.spec["overlap"])

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> PatchwiseModel:
        """Build the adapter around an untrained network."""
        try:
            return cls._around(cls._untrained(spec), spec)
        except KeyError as error:
            raise UserError(f"The description of this {cls.family} model lacks {error}. Get the file again.") from error

    @classmethod
    @abstractmethod
    def _untrained(cls, spec: dict[str, Any]) -> nn.Module:
        """The network that `spec` describes. `KeyError` where an entry is missing."""

    @classmethod
    def _around(cls, network: nn.Module, spec: dict[str, Any]) -> PatchwiseModel:
        structures = tuple(Structure(int(label), str(name)) for label, name in spec["structures"])
        return cls(network, structures=structures, modality=spec["modality"], **described(spec, spec["network"]))

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """Patches (1, 1, *roi_size) of the preprocessed scan."""
        for data, _, corner in self._patches(volume, selection, progress):
            yield CalibrationBatch((patch_of(data, corner, self.roi_size)[None],))

    def labelled_batches(
        self, reference: Segmentation, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[tuple[CalibrationBatch, torch.Tensor]]:
        """The patches of `calibration_batches`, and labels (1, *roi_size)."""
        for data, turned, corner in self._patches(reference.volume, selection, progress):
            labels = self.preprocessing.spatial(turned.apply(reference.labels).astype(np.float32))
            labels = patch_of(resized(labels, data.shape[1:], "nearest"), corner, self.roi_size).long()
            yield CalibrationBatch((patch_of(data, corner, self.roi_size)[None],)), labels

    def _patches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None
    ) -> Iterator[tuple[torch.Tensor, Reorientation, tuple[int, ...]]]:
        """The preprocessed scan, how it was turned, and the corner of each patch."""
        require_usable(volume)
        data, turned = self.preprocessing.apply(volume)
        region = self.preprocessing.spatial(
            turned.apply(calibration_region(volume, selection, progress)).astype(np.float32)
        )
        region = resized(region, data.shape[1:], "nearest")[0].numpy() > 0
        if not region.any():
            region[:] = True
        corners = choose_patches(region, self.roi_size, count=selection.count, seed=selection.seed, axis=0)
        for done, corner in enumerate(corners):
            if progress:
                progress.report(done / len(corners), f"Preparing patch {done + 1} of {len(corners)}")
            yield data, turned, corner

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Logits (1, classes, *roi_size)."""
        return first_output(network(inputs[0].to(device_of(network))))

    def parts(self) -> dict[str, Part]:
        """ "network": patches (1, 1, *roi_size) -> logits (1, classes, *roi_size)."""
        return network_part(self.network, (1, 1, *self.roi_size))

    @torch.inference_mode()
    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """Labels on the volume's own grid; logits are resampled, not labels."""
        progress = begin_without_boxes(self.name, volume, prompt, progress)
        began = time.perf_counter()
        data, turned = self.preprocessing.apply(volume)
        ready = time.perf_counter()
        logits, fallback = sliding_window_logits(
            self, data, roi_size=self.roi_size, overlap=self.overlap, progress=progress.span(0.05, 0.9)
        )
        seen = time.perf_counter()
        progress.report(0.9, "Resampling to the scan's grid")
        labels = self.preprocessing.labels(logits, volume, turned)
        structures = self.structures or named_by_number(logits.shape[0])
        stages = {"preprocess": ready - began, "network": seen - ready, "resample": time.perf_counter() - seen}
        progress.report(1.0, "Segmented")
        labels = np.ascontiguousarray(labels, dtype=label_type(structures))
        return Segmentation(labels, volume, structures, self.name, stages=stages, fallback=fallback)


def window_spec(
    roi_size: tuple[int, ...],
    overlap: float,
    preprocessing: VolumePreprocessing | dict[str, Any] | None,
    labels: dict[str, int] | None,
) -> dict[str, Any]:
    """The part of a patch-wise model's description that says how it sees a scan. Raises `UserError` for a wrong one."""
    if isinstance(preprocessing, dict):
        preprocessing = VolumePreprocessing.from_dict(preprocessing)
    if len(roi_size) != 3 or min(roi_size) < 1 or not 0 <= overlap < 1:
        raise UserError(f"A window of {tuple(roi_size)} that overlaps by {overlap} cannot be. Try (96, 96, 96), 0.5.")
    structures = sorted((int(label), str(known)) for known, label in (labels or {}).items())
    return {
        "roi_size": [int(n) for n in roi_size],
        "overlap": overlap,
        "preprocessing": plain(asdict(preprocessing or VolumePreprocessing())),
        "structures": [list(entry) for entry in structures],
    }


def plain(value: Any) -> Any:
    """Tuples as lists, so that JSON gives back what went in."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
