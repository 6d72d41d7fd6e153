"""A patch-wise network over a whole scan, with progress."""

from __future__ import annotations

import itertools

import torch

from medquant.models.base import Model, device_of
from medquant.network_edit import stoppable
from medquant.progress import Progress


def sliding_window_logits(
    model: Model, data: torch.Tensor, *, roi_size: tuple[int, ...], overlap: float, progress: Progress
) -> torch.Tensor:
    """Logits (classes, *spatial), float32 on the CPU, of `data` (channels, *spatial), by the model's part "network".

    MONAI's sliding window with Gaussian weights; the windows overlap by the part `overlap` of their size.
    """
    # Imported here: MONAI takes 270 MB, which a process without a sliding window need not hold.
    from monai.data.utils import dense_patch_slices
    from monai.inferers import sliding_window_inference

    device = device_of(model.network)
    size = [max(n, r) for n, r in zip(data.shape[1:], roi_size, strict=True)]
    step = [max(1, int(r * (1 - overlap))) if r < n else r for n, r in zip(size, roi_size, strict=True)]
    total, seen = len(dense_patch_slices(size, roi_size, step)), itertools.count()

    def run(patch: torch.Tensor) -> torch.Tensor:
        done = next(seen)
        progress.report(done / max(total, done + 1), f"Patch {done + 1} of {total}")
        return model.compute("network", patch.to(device)).float().to(device)

    settings = {"overlap": overlap, "mode": "gaussian", "sw_device": device, "device": torch.device("cpu")}
    with stoppable(model.network, progress.check):
        return sliding_window_inference(data[None], roi_size, 1, run, **settings)[0]
