"""The quantized model's own file, the smallest there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import medquant
from medquant import artifact
from medquant.deploy.export.formats import PartFile, Run, Settings
from medquant.errors import UserError
from medquant.models.base import Model, Part
from medquant.quantized_model import QuantizedModel


class ArtifactFormat:
    """One `.mq.safetensors` file with all parts; its script needs medquant, as no other program knows the network."""

    name = "artifact"
    title = "the quantized model's own file, for medquant and 3D Slicer's MedQuant module"
    packages = ""

    def version(self) -> str:
        """medquant's version."""
        return medquant.__version__

    def reference(self, part: Part) -> Part:
        """The part itself."""
        return part

    def write(self, model: Model | QuantizedModel, name: str, part: Part, folder: Path, settings: Settings) -> PartFile:
        """Write model.mq.safetensors, once for all parts."""
        if not isinstance(model, QuantizedModel):
            raise UserError(f"{model.name} is not quantized, so it has no file of its own. Quantize it first.")
        path = folder / f"model{artifact.SUFFIX}"
        if not path.exists():
            model.save(path)
        return PartFile(path.name, f"packed codes, {model.report.effective_bits:.2f} bits for each weight")

    def runner(self, path: Path, part: Part) -> Run:
        """Run by PyTorch, after loading the file."""
        loaded = artifact.load(path).model.parts()
        module = next(other.module for other in loaded.values() if list(other.inputs) == list(part.inputs))

        def run(values: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
            with torch.inference_mode():
                found = module(*(torch.from_numpy(values[key]) for key in part.inputs))
            return tuple(tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,)))

        return run
