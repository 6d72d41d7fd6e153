"""How a box-prompted network wants its pictures: grey values, size, boxes, masks.

Sources: MedSAM's published preprocessing and inference (Ma et al., Segment anything in medical images, Nature
Communications 2024), SAM's published transforms (Kirillov et al., Segment Anything, 2023).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.imaging.windows import IntensityWindow, ct_window, percentile_window
from medquant.models.body import is_hounsfield

Box2D = tuple[int, int, int, int]


@dataclass(frozen=True)
class SlicePreprocessing:
    """Everything between a slice and the network, and back. The defaults are MedSAM's."""

    image_size: int = 1024
    fit: Literal["stretch", "pad"] = "stretch"
    """Either "stretch" to a square whatever the aspect (MedSAM), or long side to `image_size` and "pad" (SAM)."""
    resize: Literal["medsam", "pil", "pil-cubic", "area"] = "medsam"
    """Cubic spline cut to whole grey levels ("medsam"), bilinear or bicubic on whole grey levels ("pil", "pil-cubic"),
    or bilinear with antialiasing on real values ("area")."""
    scaling: Literal["minmax", "standard"] = "minmax"
    """Each picture to 0..1 ("minmax"), or grey in 0..1, minus `mean`, over `std` ("standard")."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    window_level: float = 40.0
    """Centre of the CT window in HU."""
    window_width: float = 400.0
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Of the foreground (voxels above zero), for everything that is not CT."""
    box_centres: bool = False
    """Whether a box's corner is moved as the centre of its pixel is, (index + 1/2) scale - 1/2; else index x scale, as
    MedSAM and SAM do."""
    zoom_below: float = 0.0
    """A box whose longer side is below this part of the picture's longer side is cut out and encoded anew."""
    zoom_factor: float = 2.0
    """Side of the cut-out square, in longer sides of the box."""
    zoom_average: bool = False
    """Whether a box that is cut out is also decoded on the whole picture, and the two sets of logits averaged."""
    clip_margin: float | None = None
    """Masks end at the box grown by this part of its size on every side; None: anywhere."""
    largest_component: bool = False
    fill_holes: bool = False
    cut_logits: bool = False
    """Whether a stretched picture's logits are resized and cut at zero, as MedSAM2 does; else its probabilities."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            triple = (float(value),) * 3 if isinstance(value, (int, float)) else tuple(float(v) for v in value)
            object.__setattr__(self, name, triple)
        object.__setattr__(self, "percentiles", tuple(self.percentiles))
        if self.window_width <= 0:
            raise UserError(f"A CT window needs a positive width, not {self.window_width:g}. 400 suits the abdomen.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SlicePreprocessing:
        """The inverse of `to_dict`. Raises `UserError` on unknown entries."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise UserError(
                f"Unknown preprocessing: {', '.join(sorted(unknown))}. Known: {', '.join(f.name for f in fields(cls))}."
            )
        return cls(**data)

    @classmethod
    def from_weights_folder(cls, data: dict[str, Any]) -> SlicePreprocessing:
        """From the `preprocessor.json` of the embedded model's weights folder.

        There, `zoom.threshold` is the largest part of the picture that a cut-out may show. Raises `UserError` when an
        entry is missing.
        """
        try:
            zoom, tidy, window = data["zoom"], data["postprocess"], data["ct_window"]
            return cls(
                image_size=data["image_size"],
                resize="area",
                scaling="standard",
                mean=data["mean"],
                std=data["std"],
                window_level=window["level"],
                window_width=window["width"],
                percentiles=data["mr_percentiles"],
                box_centres=True,
                zoom_below=zoom["threshold"] / zoom["factor"],
                zoom_factor=zoom["factor"],
                zoom_average=zoom.get("average", False),
                clip_margin=tidy["clip_grow"],
                largest_component=tidy["largest_component"],
                fill_holes=tidy["fill_holes"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"preprocessor.json lacks {error}. Get the weights folder again.") from error


MEDSAM = SlicePreprocessing()
SAM = SlicePreprocessing(
    fit="pad",
    resize="pil",
    scaling="standard",
    mean=(123.675 / 255, 116.28 / 255, 103.53 / 255),
    std=(58.395 / 255, 57.12 / 255, 57.375 / 255),
)


def grey_window(volume: Volume, settings: SlicePreprocessing) -> IntensityWindow:
    """The map from voxels to grey levels: CT by the window, anything else by percentiles of the foreground.

    Its ends are those of the clipped scan, which MedSAM's preparation scales by. Raises `UserError` for a scan that
    shows one grey level only.
    """
    is_ct = is_hounsfield(volume)
    window = (
        ct_window(settings.window_level, settings.window_width)
        if is_ct
        else percentile_window(volume.array, *settings.percentiles)
    )
    lower, upper = np.clip((volume.array.min(), volume.array.max()), window.lower, window.upper)
    if not upper > lower:
        chosen = f" in the window W{settings.window_width:g} L{settings.window_level:g}" if is_ct else ""
        raise UserError(f"The scan {volume.name} shows one grey level only{chosen}. Choose another window or scan.")
    return replace(window, lower=float(lower), upper=float(upper))


def pixel_values(grey: np.ndarray, settings: SlicePreprocessing) -> torch.Tensor:
    """The network's input, float32 (1, 3, size, size), from a picture of grey levels (rows, columns), uint8."""
    size = settings.image_size
    rows, columns = fitted_shape(grey.shape, settings)
    picture = _resized(grey, (rows, columns), settings.resize)
    if settings.scaling == "minmax":
        low, high = picture.min(), picture.max()
        picture = (picture - low) / max(high - low, 1e-8)
        picture = picture.expand(3, -1, -1)
    else:
        mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (settings.mean, settings.std))
        picture = (picture / 255.0 - mean) / std
    padded = torch.zeros((1, 3, size, size)) if (rows, columns) != (size, size) else None
    if padded is None:
        return picture[None].contiguous()
    padded[0, :, :rows, :columns] = picture
    return padded


def fitted_shape(shape: tuple[int, ...], settings: SlicePreprocessing) -> tuple[int, int]:
    """Rows and columns that a picture of `shape` takes up in the network's square input."""
    size = settings.image_size
    if settings.fit == "stretch":
        return size, size
    scale = size / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def input_boxes(boxes: list[Box2D], shape: tuple[int, ...], settings: SlicePreprocessing) -> torch.Tensor:
    """Boxes (x0, y0, x1, y1) of a picture of `shape` on the network's input: float32 (1, boxes, 4)."""
    rows, columns = fitted_shape(shape, settings)
    scale = torch.tensor([columns / shape[1], rows / shape[0]] * 2, dtype=torch.float64)
    half = 0.5 if settings.box_centres else 0.0
    return ((torch.tensor(boxes, dtype=torch.float64) + half) * scale - half).float()[None]


def focus_map(inside: np.ndarray, settings: SlicePreprocessing) -> torch.Tensor:
    """A mask (rows, columns) of a picture on the network's input: float32 (1, size, size) in 0..1."""
    shape = fitted_shape(inside.shape, settings)
    focus = torch.zeros((1, settings.image_size, settings.image_size))
    small = torch.from_numpy(np.ascontiguousarray(inside, dtype=np.float32))[None, None]
    focus[0, : shape[0], : shape[1]] = torch.nn.functional.interpolate(small, size=shape, mode="bilinear")[0, 0]
    return focus


def masks_on_picture(logits: torch.Tensor, shape: tuple[int, ...], settings: SlicePreprocessing) -> np.ndarray:
    """Masks (boxes, rows, columns), bool, of a picture of `shape` from low-resolution logits (boxes, h, w).

    MedSAM resizes probabilities (bilinear) and cuts at one half; MedSAM2 resizes logits and cuts at zero; SAM resizes
    logits to its square, takes the padding off, resizes again and cuts at zero.
    """
    resize = torch.nn.functional.interpolate
    if settings.fit == "stretch" and settings.cut_logits:
        return (resize(logits[None], size=tuple(shape), mode="bilinear", align_corners=False)[0] > 0).cpu().numpy()
    if settings.fit == "stretch":
        probability = resize(logits.sigmoid()[None], size=tuple(shape), mode="bilinear", align_corners=False)
        return (probability[0] > 0.5).cpu().numpy()
    size = settings.image_size
    rows, columns = fitted_shape(shape, settings)
    large = resize(logits[None], size=(size, size), mode="bilinear", align_corners=False)[..., :rows, :columns]
    return (resize(large, size=tuple(shape), mode="bilinear", align_corners=False)[0] > 0).cpu().numpy()


def averaged_masks(crop: torch.Tensor, whole: torch.Tensor, shape: tuple[int, ...], where: Box2D) -> np.ndarray:
    """Masks (boxes, rows, columns), bool, of the part `where` of a picture of `shape`.

    `crop` and `whole` are the low-resolution logits (boxes, h, w) of the part and of the whole picture, both stretched
    to the network's square; the mean of the two decides.
    """
    resize = torch.nn.functional.interpolate
    x0, y0, x1, y1 = where
    far = resize(whole[None], size=tuple(shape), mode="bilinear", align_corners=False)[0, :, y0 : y1 + 1, x0 : x1 + 1]
    near = resize(crop[None], size=far.shape[1:], mode="bilinear", align_corners=False)[0]
    return (near + far > 0).cpu().numpy()


def crop_for(box: Box2D, shape: tuple[int, ...], settings: SlicePreprocessing) -> Box2D | None:
    """The square (x0, y0, x1, y1, inclusive) to encode anew for a small box; None for a box that is large enough."""
    longer = max(box[2] - box[0], box[3] - box[1]) + 1
    if longer >= settings.zoom_below * max(shape):
        return None
    side = min(max(round(settings.zoom_factor * longer), 16), *shape)
    x0 = min(max((box[0] + box[2] + 1 - side) // 2, 0), shape[1] - side)
    y0 = min(max((box[1] + box[3] + 1 - side) // 2, 0), shape[0] - side)
    return x0, y0, x0 + side - 1, y0 + side - 1


def tidied(mask: np.ndarray, box: Box2D, settings: SlicePreprocessing) -> np.ndarray:
    """The mask (rows, columns) clipped to the grown box, its largest piece, without holes, as the settings ask."""
    if settings.clip_margin is not None:
        inside = np.zeros_like(mask)
        inside[_grown(box, mask.shape, settings.clip_margin)] = True
        mask = mask & inside
    if settings.largest_component:
        pieces, count = ndimage.label(mask)
        if count > 1:
            mask = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(mask) if settings.fill_holes else mask


def _grown(box: Box2D, shape: tuple[int, ...], margin: float) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0 + 1), margin * (y1 - y0 + 1)
    return (
        slice(max(0, round(y0 - dy)), min(shape[0], round(y1 + dy) + 1)),
        slice(max(0, round(x0 - dx)), min(shape[1], round(x1 + dx) + 1)),
    )


def _resized(grey: np.ndarray, shape: tuple[int, int], how: str) -> torch.Tensor:
    """Grey levels 0..255 as float32 (rows, columns)."""
    if how == "medsam":
        from skimage.transform import resize

        cubic = resize(grey, shape, order=3, preserve_range=True, anti_aliasing=True)
        return torch.from_numpy(cubic.astype(np.uint8)).float()
    if how in ("pil", "pil-cubic"):
        from PIL import Image

        kernel = Image.Resampling.BILINEAR if how == "pil" else Image.Resampling.BICUBIC
        return torch.from_numpy(np.array(Image.fromarray(grey).resize(shape[::-1], kernel), dtype=np.float32))
    picture = torch.from_numpy(grey.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(picture, size=shape, mode="bilinear", antialias=True)[0, 0]
