"""MedSAM, SAM and the embedded demonstration model: one box, one structure, slice by slice."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, SamModel

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.imaging.boxes import resolve_box
from medquant.imaging.volume import Volume
from medquant.imaging.windows import IntensityWindow
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part, described, device_of
from medquant.models.body import require_usable
from medquant.models.pipeline import pipelined
from medquant.models.prompt_images import (
    MEDSAM,
    SAM,
    SlicePreprocessing,
    grey_window,
    pixel_values,
)
from medquant.models.sam_attention import attend_in_chunks
from medquant.models.sam_calibration import focus_in_windows, is_windowed, slices_to_calibrate, slices_with_masks
from medquant.models.sam_parts import sam_parts
from medquant.models.sam_slices import Cut, Picture, PlacedBox, cuts_of, masks_of, slices_with_boxes
from medquant.models.sam_source import is_plain_sam, plain_config, read_source, sam_config
from medquant.models.sam_weights import (
    complete_shared_positions,
    from_segment_anything,
    infer_config,
    is_segment_anything,
)
from medquant.models.slice_view import SliceView
from medquant.models.weight_files import fill, read_state_dict
from medquant.network_edit import stoppable
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure

_CACHE_BYTES = 768 * 2**20


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice on its way: where its masks go, its pictures, those not encoded yet as pixels, and the embeddings."""

    into: np.ndarray
    """The slice of the whole result, upright."""
    axis: int
    """The array axis (0, 1, 2 for k, j, i) that runs through the slices."""
    index: int
    cuts: list[Cut]
    pixels: dict[str, torch.Tensor]
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)


class SamModelAdapter(Model):
    """A `transformers.SamModel` prompted with boxes.

    A 3-D box means every slice that it crosses in its plane. The image embedding of a slice is computed once and
    kept (up to 768 MB, the oldest go first), so a second box on it costs the decoder only. Slices are shown in the
    standard radiological view, so one patient gives one mask whatever the order in which a file stores its voxels.
    """

    family = "medsam"
    takes_boxes = True
    calibration_only = ("prompt_encoder.mask_embed.*",)

    def __init__(self, network: nn.Module, *, preprocessing: SlicePreprocessing = MEDSAM, **options: Any) -> None:
        super().__init__(network, **options)
        attend_in_chunks(network)
        for module in network.modules():
            if isinstance(module, PreTrainedModel):
                module.loss_function = None  # tracing asks for it, and transformers warns of it
        self.preprocessing = preprocessing
        self.forget()

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> SamModelAdapter:
        """Build the adapter around an untrained network of `spec["config"]` (the dictionary of a `SamConfig`)."""
        try:
            config = sam_config(spec["config"])
            with torch.device("meta"):
                network = SamModel(config)
            preprocessing = SlicePreprocessing.from_dict(spec["preprocessing"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"The description of this SAM model cannot be used ({error}). Get the file again."
            ) from error
        return cls(network.to_empty(device="cpu"), preprocessing=preprocessing, **described(spec, "SAM"))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        preprocessing: SlicePreprocessing | None = None,
        window_level: float | None = None,
        window_width: float | None = None,
        licence: str = "",
    ) -> SamModelAdapter:
        """Load a folder saved by transformers, or a weight file with segment-anything or transformers names.

        `preprocessing`: None takes the folder's `preprocessor.json`, else SAM's own for files called sam_vit_*, else
        MedSAM's. `window_level` and `window_width` (HU) replace those of the CT window.
        """
        source = Path(source)
        file, config, found = read_source(source)
        state = complete_shared_positions(read_state_dict(file))
        if is_segment_anything(state):
            state = complete_shared_positions(from_segment_anything(state))
        config = config or infer_config(state, source=file.name)
        settings = preprocessing or found or (SAM if is_plain_sam(source) else MEDSAM)
        window = {"window_level": window_level, "window_width": window_width}
        settings = replace(settings, **{key: float(value) for key, value in window.items() if value is not None})
        if settings.image_size != config.vision_config.image_size:
            settings = replace(settings, image_size=config.vision_config.image_size)
        with torch.device("meta"):
            network = SamModel(config)
        fill(network, state, source=file.name, what=f"a SAM of width {config.vision_config.hidden_size}")
        spec = {
            "family": cls.family,
            "name": name or source.stem,
            "config": plain_config(config),
            "preprocessing": settings.to_dict(),
            "weights_hash": sha256_of_file(file),
            "weights_bytes": file.stat().st_size,
            "licence": licence,
        }
        return cls(network, preprocessing=settings, **described(spec))

    def forget(self) -> None:
        """Drop the image embeddings and the grey windows."""
        self.encoded = 0
        """Pictures that went through the encoder since; those whose embedding was known did not."""
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._windows: WeakKeyDictionary[Volume, IntensityWindow] = WeakKeyDictionary()

    def _window(self, volume: Volume) -> IntensityWindow:
        """The grey window of a volume that was found fit to use, once for every volume."""
        if volume not in self._windows:
            require_usable(volume)
            self._windows[volume] = grey_window(volume, self.preprocessing)
        return self._windows[volume]

    # -- calibration ---------------------------------------------------------------------------------------------

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """One batch a slice: pixel values (1, 3, size, size) and boxes (1, 4, 4) where structures can be."""
        return slices_to_calibrate(volume, self._window(volume), self.preprocessing, selection, progress)

    def labelled_batches(
        self, reference: Segmentation, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[tuple[CalibrationBatch, torch.Tensor]]:
        """Slices that the reference shows structures on, a box around each, and its mask (1, boxes, size, size)."""
        return slices_with_masks(reference, self._window(reference.volume), self.preprocessing, selection, progress)

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Mask logits (1, boxes, h, w) of one picture. Every convolution and linear layer is called."""
        pixels, boxes = (tensor.to(device_of(network)) for tensor in inputs)
        masks = network(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[:, :, 0]
        # A box prompt skips the mask prompt's layers; SAM feeds them its own previous logits.
        network.prompt_encoder.mask_embed(masks[0][:, None])
        return masks

    def exclusive(self, logits: torch.Tensor) -> bool:
        """Every box has a mask of its own."""
        return False

    def row_focus(
        self, layer: str, module: nn.Module, grid: tuple[int, ...], focus: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Attention layers of windowed blocks see windows."""
        vision = self.network.config.vision_config
        if focus is None or not is_windowed(layer, vision):
            return super().row_focus(layer, module, grid, focus)
        return focus_in_windows(focus, vision, grid)

    # -- segmentation --------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Part]:
        """ "image_encoder" (pixels -> embedding) and "mask_decoder" (embedding, any number of boxes -> logits)."""
        return sam_parts(self.network)

    def require_prompt(self, prompt: BoxPrompt | None, volume: Volume) -> None:
        """Raise `UserError` where there is no box, or where one does not lie in the scan."""
        if prompt is None or not prompt.boxes:
            raise UserError(
                f"{self.name} needs a box around each structure. Give it as --box liver=10,20,30,80,90,35 "
                "(NAME=I1,J1,K1,I2,J2,K2 in voxels), or with --box-world or --boxes-from."
            )
        for box in prompt.boxes:
            resolve_box(box, volume)

    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """One label for every box; where masks overlap, the later box wins.

        While a slice is encoded the next one is prepared and the masks of the last one are decoded, so the stages
        overlap and their sum may exceed the seconds of the whole.
        """
        self.require_prompt(prompt, volume)
        progress = progress or Progress()
        window = self._window(volume)
        winner = np.zeros(volume.shape, dtype=np.uint16)
        labels = np.array([0, *(box.label for box in prompt.boxes)])
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
        stages: dict[str, float] = dict.fromkeys(("preprocess", "encoder", "decoder"), 0.0)
        settings = self.preprocessing

        def prepare(item: tuple[tuple[SliceView, int], list[PlacedBox]]) -> _Slice:
            began = time.perf_counter()
            (view, index), boxes = item
            grey = window.apply(view.picture(volume.array, index))
            cuts = cuts_of(grey, boxes, settings)
            unseen = {p.key: p for cut in cuts for p in cut.pictures if p.key not in self._embeddings}
            pixels = {key: pixel_values(picture.grey, settings) for key, picture in unseen.items()}
            stages["preprocess"] += time.perf_counter() - began
            return _Slice(view.picture(winner, index), view.axis, index, cuts, pixels)

        def encode(one: _Slice) -> _Slice:
            began = time.perf_counter()
            pictures = [picture for cut in one.cuts for picture in cut.pictures]
            found = {p.key: self._embedding(p, one.pixels.get(p.key), progress) for p in pictures}
            stages["encoder"] += time.perf_counter() - began
            return replace(one, embeddings=found, pixels={})

        def decode(one: _Slice) -> None:
            began = time.perf_counter()
            for cut in one.cuts:
                for box, mask in masks_of(
                    cut, one.into.shape, settings, lambda p, boxes: self._decode(one.embeddings[p.key], boxes)
                ):
                    np.maximum(one.into, box.order, out=one.into, where=mask)
            stages["decoder"] += time.perf_counter() - began
            if progress.partial is not None:
                begin = tuple(one.index if axis == one.axis else 0 for axis in range(3))
                end = tuple(one.index + 1 if axis == one.axis else size for axis, size in enumerate(volume.shape))
                progress.partial(labels[winner[tuple(map(slice, begin, end))]], begin)

        steps = [torch.inference_mode()(step) for step in (prepare, encode, decode)]
        work = slices_with_boxes(volume, prompt)
        pipelined(work, *steps, progress=progress, what="Slice")
        progress.report(1.0, "Segmented")
        named = {box.label: Structure(box.label, box.name) for box in reversed(prompt.boxes)}
        structures = tuple(named[label] for label in sorted(named))
        found = np.zeros(volume.shape, dtype=labels.dtype)
        for (view, index), _ in work:  # a large scan is touched where boxes are
            view.picture(found, index)[...] = labels[view.picture(winner, index)]
        return Segmentation(found, volume, structures, self.name, stages=stages)

    def _embedding(self, picture: Picture, pixels: torch.Tensor | None, progress: Progress) -> torch.Tensor:
        """The image embedding (1, channels, h, w) of a picture, kept for the next box on it."""
        if picture.key in self._embeddings:
            self._embeddings.move_to_end(picture.key)
            return self._embeddings[picture.key]
        if pixels is None:  # it was known when the slice was prepared, and went since
            pixels = pixel_values(picture.grey, self.preprocessing)
        with stoppable(self.network.vision_encoder, progress.check):
            embedding = self.compute("image_encoder", pixels.to(device_of(self.network)))
        self.encoded += 1
        self._embeddings[picture.key] = embedding
        held = sum(tensor.nbytes for tensor in self._embeddings.values())
        while held > _CACHE_BYTES and len(self._embeddings) > 1:
            held -= self._embeddings.popitem(last=False)[1].nbytes
        return embedding

    def _decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return self.compute("mask_decoder", embedding, boxes.to(embedding.device)).float()
