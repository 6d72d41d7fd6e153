"""The cells of Tables 1 and 2: a method, a width and a case, each with a key that is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medquant.bench.cell import BenchmarkCell
from medquant.bench.identity import code_version, fingerprint, key_of
from medquant.bench.networks import NamedNetwork, torch_threads
from medquant.bench.permutation_comq.contenders import Setting
from medquant.bench.permutation_comq.material import Material, scores
from medquant.errors import UserError
from medquant.imaging.reading import read_volume
from medquant.models.base import Model, device_of
from medquant.progress import Progress
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel

_DECIDING = tuple(
    f"bench/{name}.py"
    for name in ("cell", "networks", "reference_boxes", "permutation_comq/cells", "permutation_comq/material")
)


@dataclass(frozen=True, kw_only=True)
class Cell(BenchmarkCell):
    """One method at one width, on one case."""

    setting: Setting
    calibration: Path
    """The scan that calibrates."""

    def code(self) -> str:
        return code_version(*_DECIDING)

    def measure(self, models: Path, *, device: str, threads: int, progress: Progress) -> dict[str, Any]:
        """DSC and NSD of each organ that the case shows, and the bits that are stored for a weight."""
        with torch_threads(threads):
            original = self.original(device)
            model = self.model(models, device, partial(self._quantized, progress=progress.span(0.0, 0.3)))
            organs = scores(model, self.case, progress.span(0.3, 1.0))
            getattr(model, "model", model).forget()
        return {
            "key": self.key,
            "model": original.name,
            "method": self.setting.method,
            "bits": self.setting.bits,
            "effective_bits": model.report.effective_bits if isinstance(model, QuantizedModel) else 32.0,
            "case": self.case.name,
            "organs": organs,
            "device": device_of(original.network).type,
        }

    def _quantized(self, original: Model, progress: Progress) -> QuantizedModel:
        callbacks = progress.callbacks(self.setting.describe())
        return quantize(original, read_volume(self.calibration), recipe=self.setting.recipe, **callbacks)


def cells(
    network: NamedNetwork,
    material: Material,
    chosen: Sequence[Setting],
    *,
    device: str,
    progress: Progress | None = None,
) -> list[Cell]:
    """Every cell, those of one quantized model together; `device`: the one that they will be run on.

    The network is loaded once, for what its numbers depend on. Raises `UserError` where it cannot be loaded or takes no
    boxes, and `Cancelled`.
    """
    model = network.load("cpu", progress)
    if not model.takes_boxes:
        raise UserError(f"{model.name} takes no boxes, which the paper's protocol gives. Choose medsam or embedded.")
    facts = [code_version(*_DECIDING), model.name, model.identity, torch.device(device).type]
    calibration = fingerprint(material.calibration_path)
    cases = [(case, fingerprint(case)) for case in material.cases]
    found = []
    for setting in chosen:
        of_model = [*facts, setting.recipe and [setting.recipe.to_dict(), calibration]]
        found += [
            Cell(
                network=network,
                setting=setting,
                case=case,
                key=key_of([*of_model, known]),
                model_key=key_of(of_model),
                identity=key_of(model.identity),
                calibration=material.calibration_path,
            )
            for case, known in cases
        ]
    return found
