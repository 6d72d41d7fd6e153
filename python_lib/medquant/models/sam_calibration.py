"""What a SAM is calibrated with: pictures of slices, boxes where structures can be, and where it matters."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional
from transformers.models.sam.configuration_sam import SamVisionConfig

from medquant.gram import resize_focus
from medquant.imaging.boxes import slice_axis_of
from medquant.imaging.volume import Volume
from medquant.imaging.windows import IntensityWindow
from medquant.models.base import CalibrationBatch, CalibrationSelection
from medquant.models.body import body_mask, choose_slices, evenly
from medquant.models.prompt_images import Box2D, SlicePreprocessing, focus_map, input_boxes, pixel_values
from medquant.models.slice_view import SliceView
from medquant.progress import Progress
from medquant.segmentation import Segmentation


def slices_to_calibrate(
    volume: Volume,
    window: IntensityWindow,
    settings: SlicePreprocessing,
    selection: CalibrationSelection,
    progress: Progress | None,
) -> Iterator[CalibrationBatch]:
    """One batch a slice: pixel values (1, 3, size, size) and boxes (1, 4, 4) where structures can be.

    Unlabelled: the boxes are drawn inside the body, of the sizes that organs have, seeded by the selection.
    """
    axis = slice_axis_of(volume)
    body, view = body_mask(volume, progress), SliceView.of(volume, axis)
    generator = np.random.default_rng(selection.seed)
    indices = choose_slices(volume, axis, selection, body)
    for done, index in enumerate(indices):
        if progress:
            progress.report(done / len(indices), f"Preparing slice {index}")
        picture, inside = view.picture(volume.array, index), view.picture(body, index)
        boxes = plausible_boxes(inside, generator)
        pixels = pixel_values(window.apply(picture), settings)
        inputs = (pixels, input_boxes(boxes, picture.shape, settings))
        yield CalibrationBatch(inputs, focus_map(inside, settings))


def slices_with_masks(
    reference: Segmentation,
    window: IntensityWindow,
    settings: SlicePreprocessing,
    selection: CalibrationSelection,
    progress: Progress | None,
) -> Iterator[tuple[CalibrationBatch, torch.Tensor]]:
    """Slices that show much of the reference, with the box and the mask (1, boxes, size, size) of each structure."""
    volume = reference.volume
    axis = slice_axis_of(volume)
    view, known = SliceView.of(volume, axis), [structure.label for structure in reference.structures]
    shown = np.isin(reference.labels, known)
    area = shown.sum(axis=tuple(other for other in range(3) if other != axis))
    indices = evenly(np.flatnonzero(2 * area >= max(1, area.max())), selection.count)
    for done, index in enumerate(indices):
        if progress:
            progress.report(done / len(indices), f"Preparing slice {index}")
        picture, labels = view.picture(volume.array, index), view.picture(reference.labels, index)
        masks = [labels == label for label in known if (labels == label).any()]
        boxes = input_boxes([_box_around(mask) for mask in masks], picture.shape, settings)
        focus = focus_map(view.picture(shown, index), settings)
        truth = torch.cat([focus_map(mask, settings) for mask in masks])[None] > 0.5
        yield CalibrationBatch((pixel_values(window.apply(picture), settings), boxes), focus), truth


def _box_around(mask: np.ndarray) -> Box2D:
    """The tight box (x0, y0, x1, y1) around a mask (rows, columns), inclusive."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def plausible_boxes(inside: np.ndarray, generator: np.random.Generator, count: int = 4) -> list[Box2D]:
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


def is_windowed(layer: str, vision: SamVisionConfig) -> bool:
    """Whether this layer belongs to an attention that sees the picture in windows."""
    found = re.match(r"vision_encoder\.layers\.(\d+)\.attn\.", layer)
    return found is not None and int(found[1]) not in vision.global_attn_indexes


def focus_in_windows(focus: torch.Tensor, vision: SamVisionConfig, grid: tuple[int, ...]) -> torch.Tensor | None:
    """The focus (1, h, w) for each row that such a layer sees; padding that fills the last windows does not count.

    None where the rows are not those of the windows.
    """
    side, window = vision.image_size // vision.patch_size, vision.window_size
    tokens = functional.pad(resize_focus(focus, (side, side)), (0, -side % window, 0, -side % window), value=-1.0)
    windows = tokens.unfold(1, window, window).unfold(2, window, window)
    return windows.reshape(-1) if windows.numel() == torch.Size(grid).numel() else None
