"""The diffusion network as the engine quantizes it: calibrated on its own ways from noise to image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medquant.bench.generation.sampling import STEPS, noise_of, states
from medquant.embedded.diffusion_demo.configuration import OPTIONS, load_weights
from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part
from medquant.models.catalogue import EMBEDDED_DIFFUSION
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation

CALIBRATION_SEED = 77_000
"""Images that are measured start from other noise."""


class GenerationModel(Model):
    """The network alone: latents (n, 4, 32, 32) and timesteps (n,) -> velocity (n, 4, 32, 32)."""

    family = "diffusion"

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Model:
        raise UserError("This network belongs to the benchmark. Run `medquant bench generation`.")

    @classmethod
    def load(cls, source: str | Path = EMBEDDED_DIFFUSION, **_options: Any) -> GenerationModel:
        """The network of a weights folder. Raises `UserError` where it is not one."""
        network = load_weights(Path(source))
        file = Path(source) / "model.safetensors"
        return cls(
            network,
            name=OPTIONS["name"],
            spec={"family": cls.family, "weights_bytes": file.stat().st_size},
            weights_hash=sha256_of_file(file),
            modality="CT",
            licence=OPTIONS["licence"],
        )

    def own_batches(self, count: int, steps: int = STEPS, progress: Progress | None = None) -> list[CalibrationBatch]:
        """`count` ways of FP32 from noise to image, each with all that the network is given on it.

        So every timestep of the sampler counts alike: what flows through a diffusion network differs from one to the
        next, and a grid that fits the last steps cuts the first (Shang et al., "Post-training quantization on diffusion
        models", CVPR 2023). Everywhere in an image matters alike.
        """
        found = []
        for number, noise in enumerate(noise_of(count, CALIBRATION_SEED).split(1)):
            (progress or Progress()).report(number / count, f"Way {number + 1} of {count} from noise to image")
            latents, timesteps = states(self.network, noise, steps)
            focus = torch.ones(len(latents), *latents.shape[2:])
            found.append(CalibrationBatch((latents, timesteps), focus))
        return found

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """Its own ways: no scan calibrates it."""
        yield from self.own_batches(selection.count, progress=progress)

    def foreground(self, logits: torch.Tensor) -> torch.Tensor:
        """Everywhere."""
        return torch.ones(len(logits), *logits.shape[2:], dtype=torch.bool)

    def parts(self) -> dict[str, Part]:
        """ "network": latents and timesteps -> velocity."""
        example = {"latents": noise_of(1, 0), "timesteps": torch.tensor([500])}
        return {"network": Part(self.network, example, ("velocity",))}

    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        raise UserError("This network makes images, it segments none. Run `medquant bench generation`.")
