"""What computes windows that were made smaller, as the memory did not suffice for the usual ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from medquant.errors import UserError
from medquant.memory import lacks_memory
from medquant.models.base import Model
from medquant.progress import Progress
from medquant.segmentation import Fallback

Compute = Callable[[torch.Tensor], torch.Tensor]


class SmallerWindows:
    """The part "network" of a model for windows of other sizes than its own: by its runtime, else by PyTorch.

    The model's own session gives back its buffers first; it stays for the next scan.
    """

    @torch.inference_mode(False)
    def __init__(self, model: Model) -> None:
        self._part, self._session = model.parts()["network"], model.sessions.get("network")
        if self._session is not None:
            self._session.release()

    def compute(self, size: tuple[int, ...], progress: Progress) -> tuple[Compute, Fallback]:
        """What computes windows (1, channels, *size), and what is to be told of it.

        Raises `MemoryError` where the memory does not suffice to prepare it.
        """
        told = " x ".join(map(str, size))
        progress.report(0.0, f"The memory does not suffice; trying windows of {told} voxels")
        told = f"in windows of {told} voxels, as the memory did not suffice for larger ones."
        if self._session is not None and self._session.runtime != "pytorch":
            try:
                found = self._compiled(size, progress)
                return found, Fallback(f"{self._session.runtime} {self._session.precision}, {told}", by_pytorch=False)
            except UserError as error:  # the runtime lacks what this size needs
                if lacks_memory(error):
                    raise MemoryError("compiling") from error
                self._session = None
        return self._part.module, Fallback(f"PyTorch, {told}")

    @torch.inference_mode(False)
    def _compiled(self, size: tuple[int, ...], progress: Progress) -> Compute:
        # Imported here: who runs by PyTorch alone needs no runtime.
        from medquant.deploy.compiling import compile_parts
        from medquant.deploy.runtime import RUNTIMES

        cut = (..., *(slice(length) for length in size))
        inputs = {name: tensor[cut].contiguous() for name, tensor in self._part.inputs.items()}
        parts = {"network": replace(self._part, inputs=inputs)}
        runtime, precision = RUNTIMES[self._session.runtime], self._session.precision
        sessions, _ = compile_parts(parts, runtime, precision, threads=None, progress=progress.span(0.0, 0.0))
        return sessions["network"]
