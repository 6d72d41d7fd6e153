"""MedSAM, SAM and the embedded demonstration model: one box, one structure, slice by slice."""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import SamModel

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.gram import resize_focus
from medquant.imaging.boxes import resolve_box, slice_axis_of
from medquant.imaging.volume import Volume
from medquant.imaging.windows import IntensityWindow
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, described, device_of
from medquant.models.body import body_mask, choose_slices, require_usable
from medquant.models.prompt_images import (
    MEDSAM,
    SAM,
    Box2D,
    SlicePreprocessing,
    averaged_masks,
    crop_for,
    focus_map,
    grey_window,
    input_boxes,
    masks_on_picture,
    pixel_values,
    tidied,
)
from medquant.models.sam_attention import attend_in_chunks
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
_BOXES_AT_ONCE = 16


@dataclass(frozen=True)
class _PlacedBox:
    """A box on the volume's grid: its slices and its rectangle in each of them."""

    order: int
    label: int
    slices: range
    rectangle: Box2D


class SamModelAdapter(Model):
    """A `transformers.SamModel` prompted with boxes.

    A 3-D box means every slice that it crosses in its plane. The image embedding of a slice is computed once and
    kept (up to 768 MB, the oldest go first), so a second box on it costs the decoder only. Slices are shown in the
    standard radiological view, so one patient gives one mask whatever the order in which a file stores its voxels.
    """

    family = "medsam"

    def __init__(self, network: nn.Module, *, preprocessing: SlicePreprocessing = MEDSAM, **options: Any) -> None:
        super().__init__(network, **options)
        attend_in_chunks(network)
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
            "licence": licence,
        }
        return cls(network, preprocessing=settings, **described(spec))

    def forget(self) -> None:
        """Drop the image embeddings and the grey windows."""
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
        """One batch a slice: pixel values (1, 3, size, size) and boxes (1, 4, 4) where structures can be.

        Unlabelled: the boxes are drawn inside the body, of the sizes that organs have, seeded by the selection.
        """
        window, axis = self._window(volume), slice_axis_of(volume)
        body, view = body_mask(volume), SliceView.of(volume, axis)
        generator = np.random.default_rng(selection.seed)
        indices = choose_slices(volume, axis, selection, body)
        for done, index in enumerate(indices):
            if progress:
                progress.report(done / len(indices), f"Preparing slice {index}")
            picture, inside = view.picture(volume.array, index), view.picture(body, index)
            boxes = _plausible_boxes(inside, generator)
            pixels = pixel_values(window.apply(picture), self.preprocessing)
            inputs = (pixels, input_boxes(boxes, picture.shape, self.preprocessing))
            yield CalibrationBatch(inputs, focus_map(inside, self.preprocessing))

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Mask logits (1, boxes, h, w) of one picture. Every convolution and linear layer is called."""
        pixels, boxes = (tensor.to(device_of(network)) for tensor in inputs)
        masks = network(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[:, :, 0]
        # A box prompt skips the mask prompt's layers; SAM feeds them its own previous logits.
        network.prompt_encoder.mask_embed(masks[0][:, None])
        return masks

    def foreground(self, logits: torch.Tensor) -> torch.Tensor:
        """Where any box's mask is: bool (batch, h, w)."""
        return (logits > 0).any(1)

    def row_focus(
        self, layer: str, module: nn.Module, grid: tuple[int, ...], focus: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Attention layers of windowed blocks see windows; the padding that fills the last ones does not count."""
        vision = self.network.config.vision_config
        windowed = re.match(r"vision_encoder\.layers\.(\d+)\.attn\.", layer)
        if focus is None or not windowed or int(windowed[1]) in vision.global_attn_indexes:
            return super().row_focus(layer, module, grid, focus)
        side, window = vision.image_size // vision.patch_size, vision.window_size
        tokens = functional.pad(resize_focus(focus, (side, side)), (0, -side % window, 0, -side % window), value=-1.0)
        windows = tokens.unfold(1, window, window).unfold(2, window, window)
        return windows.reshape(-1) if windows.numel() == torch.Size(grid).numel() else None

    # -- segmentation --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """One label for every box; where masks overlap, the later box wins."""
        if prompt is None or not prompt.boxes:
            raise UserError(f"{self.name} needs a box around each structure. Draw or name at least one box.")
        progress = progress or Progress()
        window = self._window(volume)
        winner = np.zeros(volume.shape, dtype=np.uint16)
        stages: dict[str, float] = defaultdict(float)
        work = _slices_with_boxes(volume, prompt)
        for done, ((view, index), boxes) in enumerate(work):
            one = progress.span(done / len(work), (done + 1) / len(work))
            one.report(0.0, f"Slice {done + 1} of {len(work)}")
            grey = window.apply(view.picture(volume.array, index))
            into = view.picture(winner, index)
            for box, mask in self._masks(grey, boxes, stages, one):
                np.maximum(into, box.order, out=into, where=mask)
        progress.report(1.0, "Segmented")
        labels = np.array([0, *(box.label for box in prompt.boxes)])
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
        named = {box.label: Structure(box.label, box.name) for box in reversed(prompt.boxes)}
        structures = tuple(named[label] for label in sorted(named))
        return Segmentation(labels[winner], volume, structures, self.name, stages=dict(stages))

    def _masks(
        self, grey: np.ndarray, boxes: list[_PlacedBox], stages: dict[str, float], progress: Progress
    ) -> Iterator[tuple[_PlacedBox, np.ndarray]]:
        """Each box of a picture with its mask (rows, columns). Boxes that share an embedding share the decoder."""
        by_crop: dict[Box2D | None, list[_PlacedBox]] = defaultdict(list)
        for box in boxes:
            by_crop[crop_for(box.rectangle, grey.shape, self.preprocessing)].append(box)
        for crop, members in by_crop.items():
            progress.check()
            x0, y0, x1, y1 = crop or (0, 0, grey.shape[1] - 1, grey.shape[0] - 1)
            part = np.ascontiguousarray(grey[y0 : y1 + 1, x0 : x1 + 1])
            embedding = self._embedding(part, stages, progress)
            if crop is not None and self.preprocessing.zoom_average:
                whole = self._embedding(grey, stages, progress)
            for start in range(0, len(members), _BOXES_AT_ONCE):
                some = members[start : start + _BOXES_AT_ONCE]
                began = time.perf_counter()
                local = [tuple(np.subtract(box.rectangle, (x0, y0, x0, y0)).tolist()) for box in some]
                logits = self._decode(embedding, input_boxes(local, part.shape, self.preprocessing))
                if crop is not None and self.preprocessing.zoom_average:
                    around = [box.rectangle for box in some]
                    far = self._decode(whole, input_boxes(around, grey.shape, self.preprocessing))
                    masks = averaged_masks(logits, far, grey.shape, crop)
                else:
                    masks = masks_on_picture(logits, part.shape, self.preprocessing)
                for box, rectangle, mask in zip(some, local, masks, strict=True):
                    everywhere = np.zeros(grey.shape, dtype=bool)
                    everywhere[y0 : y1 + 1, x0 : x1 + 1] = tidied(mask, rectangle, self.preprocessing)
                    yield box, everywhere
                stages["decoder"] += time.perf_counter() - began

    def _embedding(self, grey: np.ndarray, stages: dict[str, float], progress: Progress) -> torch.Tensor:
        """The image embedding (1, channels, h, w) of a picture, from the cache where the same picture was seen."""
        key = hashlib.sha256(np.array(grey.shape).tobytes() + grey.tobytes()).hexdigest()
        if key in self._embeddings:
            self._embeddings.move_to_end(key)
            return self._embeddings[key]
        began = time.perf_counter()
        pixels = pixel_values(grey, self.preprocessing).to(device_of(self.network))
        encoding = time.perf_counter()
        with stoppable(self.network.vision_encoder, progress.check):
            embedding = self.network.vision_encoder(pixels).last_hidden_state
        stages["preprocess"] += encoding - began
        stages["encoder"] += time.perf_counter() - encoding
        self._embeddings[key] = embedding
        held = sum(tensor.nbytes for tensor in self._embeddings.values())
        while held > _CACHE_BYTES and len(self._embeddings) > 1:
            held -= self._embeddings.popitem(last=False)[1].nbytes
        return embedding

    def _decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        boxes = boxes.to(embedding.device)
        output = self.network(image_embeddings=embedding, input_boxes=boxes, multimask_output=False)
        return output.pred_masks[0, :, 0].float()


def _slices_with_boxes(volume: Volume, prompt: BoxPrompt) -> list[tuple[tuple[SliceView, int], list[_PlacedBox]]]:
    """Every (view, slice) that a box crosses, with its boxes in the prompt's order."""
    work: dict[tuple[SliceView, int], list[_PlacedBox]] = defaultdict(list)
    for order, box in enumerate(prompt.boxes, start=1):
        if not 0 < box.label < 65536:
            raise UserError(f"The box {box.name} has the label {box.label}. Labels run from 1 to 65535.")
        lower, upper, axis = resolve_box(box, volume)
        view = SliceView.of(volume, axis)
        slices = range(int(lower[2 - axis]), int(upper[2 - axis]) + 1)
        placed = _PlacedBox(order, box.label, slices, view.box(lower, upper, volume.shape))
        for index in slices:
            work[view, index].append(placed)
    return sorted(work.items(), key=lambda item: (item[0][0].axis, item[0][1]))


def _plausible_boxes(inside: np.ndarray, generator: np.random.Generator, count: int = 4) -> list[Box2D]:
    """Boxes (x0, y0, x1, y1) within a picture's body, a tenth to four tenths of it wide and high."""
    rows, columns = np.nonzero(inside if inside.any() else np.ones_like(inside))
    top, left = rows.min(), columns.min()
    height, width = rows.max() - top + 1, columns.max() - left + 1
    boxes = []
    for _ in range(count):
        where = generator.integers(len(rows))
        half_height, half_width = generator.uniform(0.05, 0.2, size=2) * (height, width)
        y0, y1 = np.clip((rows[where] - half_height, rows[where] + half_height), top, top + height - 1)
        x0, x1 = np.clip((columns[where] - half_width, columns[where] + half_width), left, left + width - 1)
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    return boxes
