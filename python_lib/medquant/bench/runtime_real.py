"""The network of the runtime benchmark that has real weights and is run on a real scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from medquant.activation_settings import IntActivations
from medquant.bench.organ_case import CROPS, TEST_SCAN, OrganCase, OrganModel, test_cube
from medquant.bench.quality import FLOAT_SHARE
from medquant.bench.runtime_cases import Case
from medquant.imaging.reading import read_volume
from medquant.mixed.float_inputs import require_share, with_float_inputs
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part
from medquant.recipe import IntWeights, Recipe

FOLD = 2
W8A8 = Recipe(weights=IntWeights(8), activations=IntActivations(8))


def real_case(data: Path, float_share: float = FLOAT_SHARE) -> RealCase:
    """The network of `medquant bench quality`, in the folder of real scans and weights.

    Raises `UserError` for a `float_share` that is neither 0 nor a part.
    """
    if float_share:
        require_share(W8A8, float_share)
    source = data / "weights" / "allconvunet" / f"allconvunet_tcia_fold{FOLD}.pth"
    return RealCase(
        "allconvunet, real weights, 144^3", lambda: OrganModel.load(source), data=data, float_share=float_share
    )


@dataclass(frozen=True)
class RealCase(Case):
    """A network with real weights, calibrated on one scan and run on another: protocol of `medquant bench quality`."""

    data: Path = Path()
    float_share: float = FLOAT_SHARE

    def piece(self, model: Model, seed: int = 1) -> Part:
        """The network with the cube of the scan that tests."""
        volume, _ = test_cube(*(self.data / name for name in TEST_SCAN))
        return Part(model.network, {"image": torch.from_numpy(volume.array.copy())[None, None]}, ("logits",))

    def calibration(self, model: Model) -> list[CalibrationBatch]:
        """The cubes of the scan that calibrates."""
        volume = read_volume(self.data / "ct_calibration_dicom" / "series")
        return list(model.calibration_batches(volume, CalibrationSelection(count=len(CROPS))))

    def recipe(self, model: Model, calibration: list[CalibrationBatch]) -> Recipe:
        """The product's W8A8 with the inputs in floating point that matter most, `float_share` of the arithmetic."""
        if not self.float_share:
            return W8A8
        return with_float_inputs(model, calibration, recipe=W8A8, share=self.float_share)

    def mask(self, model: Model, output: torch.Tensor) -> torch.Tensor:
        """Labels of the organs that count."""
        labels = output.argmax(1)
        return torch.where(torch.isin(labels, torch.tensor(self._organs)), labels, 0)

    @cached_property
    def _organs(self) -> tuple[int, ...]:
        (case,) = OrganCase.all(self.data, (FOLD,))
        return case.organs
