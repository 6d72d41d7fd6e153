"""Any `torch.nn.Module` from Python, with the user's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part, device_of, refuse_boxes
from medquant.models.body import calibration_region, choose_patches, require_usable
from medquant.models.network_part import first_output, network_part
from medquant.models.sliding_window import sliding_window_logits
from medquant.network_edit import stoppable
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure

Preprocess = Callable[[Volume], torch.Tensor]
Postprocess = Callable[[torch.Tensor, Volume], np.ndarray]


class TorchModel(Model):
    """A network of the user's, with two functions around it.

    `preprocess(volume)` gives float32 (channels, K, J, I); `postprocess(logits, volume)` turns logits
    (classes, K, J, I) on the CPU into labels on the volume's own grid. `roi_size`: the sliding window; None hands the
    whole to the network at once.
    """

    family = "torch"

    def __init__(
        self,
        network: nn.Module,
        *,
        preprocess: Preprocess,
        postprocess: Postprocess,
        roi_size: tuple[int, ...] | None = None,
        overlap: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.preprocess = preprocess
        self.postprocess = postprocess
        self.roi_size = roi_size
        self.overlap = overlap
        # Noted now: a quantized network's layers do not tell.
        layers = (module.in_channels for module in network.modules() if hasattr(module, "in_channels"))
        self.channels = next(layers, 1)
        """Of a patch: what the first convolution takes."""

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Model:
        """Refused: a network that was written in Python is not in any file."""
        raise UserError(
            f"The model {spec.get('name', '')!r} was made from a network in Python, which no file can hold. "
            "Open it there: medquant.artifact.load(path, model=from_module(network, ...))."
        )

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> Model:
        """Refused: use `from_module`."""
        raise UserError("A network of your own is given from Python: from_module(network, name=...).")

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """Patches of the preprocessed volume, or all of it where there is no `roi_size`."""
        require_usable(volume)
        data = self._prepared(volume)
        if self.roi_size is None:
            yield CalibrationBatch((data[None],))
            return
        # Where the preprocessing keeps the grid the body is known; on another grid patches are spread evenly.
        shape = tuple(data.shape[1:])
        same = shape == volume.shape
        region = calibration_region(volume, selection, progress) if same else np.ones(shape, dtype=bool)
        axis = volume.slice_axis if same else 0
        corners = choose_patches(region, self.roi_size, count=selection.count, seed=selection.seed, axis=axis)
        for done, corner in enumerate(corners):
            if progress:
                progress.report(done / len(corners), f"Preparing patch {done + 1} of {len(corners)}")
            yield CalibrationBatch((patch_of(data, corner, self.roi_size)[None],))

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Logits (batch, classes, *spatial)."""
        return first_output(network(*(value.to(device_of(network)) for value in inputs)))

    def parts(self) -> dict[str, Part]:
        """ "network": patches (1, channels, *roi_size) -> logits; without `roi_size` the shape is not known."""
        if self.roi_size is None:
            return network_part(self.network, None)
        return network_part(self.network, (1, self.channels, *self.roi_size))

    @torch.inference_mode()
    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """Labels on the volume's own grid, as `postprocess` gives them."""
        progress, fallback = begin_without_boxes(self.name, volume, prompt, progress), None
        data = self._prepared(volume)
        if self.roi_size is None:
            with stoppable(self.network, progress.check):
                output = self.compute("network", data[None].to(device_of(self.network)))
            logits = output[0].float().cpu()
        else:
            logits, fallback = sliding_window_logits(
                self, data, roi_size=self.roi_size, overlap=self.overlap, progress=progress.span(0.05, 0.95)
            )
        labels = np.asarray(self.postprocess(logits, volume))
        progress.report(1.0, "Segmented")
        if labels.shape != volume.shape:
            raise UserError(
                f"The postprocessing of {self.name} gave {labels.shape}, the scan has {volume.shape}. "
                "Return labels on the scan's own grid."
            )
        structures = self.structures or named_by_number(logits.shape[0])
        return Segmentation(labels.astype(label_type(structures)), volume, structures, self.name, fallback=fallback)

    def _prepared(self, volume: Volume) -> torch.Tensor:
        data = self.preprocess(volume)
        if not torch.is_tensor(data) or data.ndim < 3:
            raise UserError(f"The preprocessing of {self.name} must give a tensor (channels, K, J, I).")
        return data.float()


def from_module(
    network: nn.Module,
    *,
    name: str,
    preprocess: Preprocess | None = None,
    postprocess: Postprocess | None = None,
    roi_size: tuple[int, ...] | None = None,
    overlap: float = 0.5,
    structures: tuple[Structure, ...] = (),
    modality: str = "",
    licence: str = "",
) -> TorchModel:
    """A model around any `torch.nn.Module`, to quantize, segment and compare like every other.

    `preprocess(volume)` gives a float32 tensor (channels, K, J, I); None: the voxels as they are, one channel.
    `postprocess(logits, volume)` turns logits (classes, K, J, I) into labels on the volume's grid; None: the largest
    logit, or above zero where there is one class. `roi_size`: the sliding window of patch-wise networks; None: the
    whole at once.
    """
    return TorchModel(
        network,
        preprocess=preprocess or voxels_as_they_are,
        postprocess=postprocess or largest_logit,
        roi_size=roi_size,
        overlap=overlap,
        name=name,
        spec={"family": "torch", "name": name},
        weights_hash=hash_of_state(network),
        structures=structures,
        modality=modality,
        licence=licence,
    )


def voxels_as_they_are(volume: Volume) -> torch.Tensor:
    """The voxels as float32 (1, K, J, I)."""
    return torch.tensor(volume.array.astype(np.float32))[None]


def largest_logit(logits: torch.Tensor, volume: Volume) -> np.ndarray:
    """Labels from logits (classes, K, J, I): the largest, or above zero where there is one class."""
    return (logits.argmax(0) if logits.shape[0] > 1 else logits[0] > 0).cpu().numpy()


def patch_of(data: torch.Tensor, corner: tuple[int, ...], size: tuple[int, ...]) -> torch.Tensor:
    """The patch (channels, *size) of `data` (channels, *spatial) at `corner`, padded with zeros where it ends."""
    cut = data[(slice(None), *(slice(c, c + s) for c, s in zip(corner, size, strict=True)))]
    short = [s - have for s, have in zip(size, cut.shape[1:], strict=True)]
    padding = [amount for need in reversed(short) for amount in (0, need)]
    return nn.functional.pad(cut, padding) if any(short) else cut.clone()


def begin_without_boxes(name: str, volume: Volume, prompt: BoxPrompt | None, progress: Progress | None) -> Progress:
    """The first step of every model that finds the structures by itself.

    Raises `UserError` where a box was given, and for a volume that no network can use.
    """
    refuse_boxes(name, prompt)
    require_usable(volume)
    progress = progress or Progress()
    progress.report(0.0, "Preparing the scan")
    return progress


def named_by_number(classes: int) -> tuple[Structure, ...]:
    """Structures for a network whose classes have no names."""
    return tuple(Structure(label, f"structure {label}") for label in range(1, max(classes, 2)))


def label_type(structures: tuple[Structure, ...]) -> type[np.unsignedinteger]:
    """The smallest unsigned type that holds every label."""
    return np.uint8 if max((s.label for s in structures), default=1) < 256 else np.uint16


def hash_of_state(network: nn.Module) -> str:
    """SHA-256 over a network's tensors and their names."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
