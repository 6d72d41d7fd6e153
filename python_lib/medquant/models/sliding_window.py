"""A patch-wise network over a whole scan, with progress."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from medquant.errors import Cancelled
from medquant.layers import decoded_once
from medquant.memory import lacks_memory
from medquant.models.base import Model, device_of
from medquant.models.smaller_window import SmallerWindows
from medquant.network_edit import stoppable
from medquant.progress import Progress
from medquant.segmentation import Fallback

MULTIPLE = 32
"""Windows that are made smaller keep sizes that a network can halve five times, as the usual ones do."""


def sliding_window_logits(
    model: Model, data: torch.Tensor, *, roi_size: tuple[int, ...], overlap: float, progress: Progress
) -> tuple[torch.Tensor, Fallback | None]:
    """Logits (classes, *spatial), float32 on the CPU, of `data` (channels, *spatial), by the model's part "network".

    MONAI's sliding window with Gaussian weights; the windows overlap by the part `overlap` of their size. Where the
    memory does not suffice for a window, smaller ones are tried, which see less around each voxel; networks of one size
    only do not take them. The second value says so; None where nothing is to be said. Raises `MemoryError` where no
    window is left.
    """
    try:
        return _logits(partial(model.compute, "network"), model, data, roi_size, overlap, progress), None
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
    smaller = SmallerWindows(model)
    while (roi_size := smaller_window(roi_size)) is not None:
        try:
            compute, fallback = smaller.compute(roi_size, progress)
            with decoded_once(model.network) if fallback.by_pytorch else nullcontext():
                return _logits(compute, model, data, roi_size, overlap, progress), fallback
        except Cancelled:
            raise
        except Exception as error:
            if not lacks_memory(error):  # a network of one size only, which says so in its own way
                break
    raise MemoryError("running the model")


def smaller_window(roi_size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Half the length along the longest axis, in whole `MULTIPLE`s; None where no axis can be shorter."""
    longest = max(range(len(roi_size)), key=roi_size.__getitem__)
    length = roi_size[longest] // (2 * MULTIPLE) * MULTIPLE
    return (*roi_size[:longest], length, *roi_size[longest + 1 :]) if length else None


def _logits(
    compute: Callable[[torch.Tensor], torch.Tensor],
    model: Model,
    data: torch.Tensor,
    roi_size: tuple[int, ...],
    overlap: float,
    progress: Progress,
) -> torch.Tensor:
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
        return compute(patch.to(device)).float().to(device)

    settings = {"overlap": overlap, "mode": "gaussian", "sw_device": device, "device": torch.device("cpu")}
    with stoppable(model.network, progress.check):
        return sliding_window_inference(data[None], roi_size, 1, run, **settings)[0]
