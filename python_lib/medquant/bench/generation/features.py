"""What an image is by a network's eye: the embedded promptable model's image encoder, averaged over the image.

The usual FID takes Inception's features, MAISI's authors those of a network for radiology; neither is at hand, so FIDs
here compare with each other only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from medquant.embedded.promptable.configuration import IMAGE_SIZE, PREPROCESSOR
from medquant.models.registry import load_model
from medquant.progress import Progress

EXTRACTOR = "the embedded promptable model's image encoder (SAM's layout), 128 channels averaged over the image"
TOGETHER = 16


class Features:
    """The encoder, loaded once."""

    def __init__(self) -> None:
        self.encoder = load_model("embedded", device="cpu").network.vision_encoder

    def __call__(self, images: torch.Tensor, progress: Progress) -> np.ndarray:
        """Images (n, 1, side, side) in -1..1 -> features (n, 128). -1..1 is the window that the encoder learnt with."""
        found = []
        with torch.inference_mode():
            for part in images.split(TOGETHER):
                progress.report(TOGETHER * len(found) / len(images), "Looking at the images")
                size = (IMAGE_SIZE, IMAGE_SIZE)
                large = functional.interpolate(part, size=size, mode="bilinear", align_corners=False)
                grey = ((large + 1) / 2 - PREPROCESSOR["mean"]) / PREPROCESSOR["std"]
                found.append(self.encoder(grey.expand(-1, 3, -1, -1)).last_hidden_state.mean((2, 3)))
        return torch.cat(found).numpy()
