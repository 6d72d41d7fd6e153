"""MONAI's networks by name and state dict, with the usual preprocessing around them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part, described, device_of
from medquant.models.body import calibration_region, choose_patches, require_usable
from medquant.models.catalogue import MONAI_NETWORKS
from medquant.models.network_part import first_output, network_part
from medquant.models.orientation import Reorientation
from medquant.models.sliding_window import sliding_window_logits
from medquant.models.torch_program import begin_without_boxes, label_type, named_by_number, patch_of
from medquant.models.weight_files import fill, read_state_dict
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure

# The cross-attention that a transformer block holds for other uses.
_NEVER_RUN = ("*.cross_attn.*",)


@dataclass(frozen=True)
class VolumePreprocessing:
    """From a scan to a network's input; the defaults hand the voxels over as they are."""

    orientation: str | None = None
    """Directions of i, j, k, such as "RAS"; None: as stored."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size in mm along (k, j, i) after the orientation; None: the scan's own."""
    intensity: Literal["none", "range", "zscore", "nonzero-zscore"] = "none"
    """A linear "range", or mean 0 and deviation 1 over all voxels or over those that are not 0."""
    source_range: tuple[float, float] = (-175.0, 250.0)
    """For "range": what goes to `target_range`; outside it is clipped."""
    target_range: tuple[float, float] = (0.0, 1.0)
    axes: Literal["kji", "ijk"] = "ijk"
    """The order of the network's spatial axes; MONAI's own loaders give ijk."""

    def __post_init__(self) -> None:
        for name in ("spacing", "source_range", "target_range"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(float(v) for v in value))
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise UserError(f"The spacing {self.spacing} is not three sizes above 0. Give mm along k, j and i.")
        if self.source_range[0] >= self.source_range[1]:
            raise UserError(f"The intensity range {self.source_range} is empty. Give the lower end first.")
        for name, known in (("intensity", ("none", "range", "zscore", "nonzero-zscore")), ("axes", ("kji", "ijk"))):
            if getattr(self, name) not in known:
                raise UserError(f"Unknown {name} {getattr(self, name)!r}. Choose one of {', '.join(known)}.")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VolumePreprocessing:
        """From plain data. Raises `UserError` on unknown entries."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            known = ", ".join(f.name for f in fields(cls))
            raise UserError(f"Unknown preprocessing: {', '.join(sorted(unknown))}. Known: {known}.")
        return cls(**data)


class MonaiModel(Model):
    """A network of `monai.networks.nets` with a sliding window."""

    family = "monai"

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.preprocessing = VolumePreprocessing.from_dict(self.spec["preprocessing"])
        self.roi_size: tuple[int, int, int] = tuple(self.spec["roi_size"])
        self.overlap = float(self.spec["overlap"])

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> MonaiModel:
        """Build the adapter around an untrained network."""
        try:
            return cls._around(build_network(spec["network"], spec["arguments"]), spec)
        except KeyError as error:
            raise UserError(f"The description of this MONAI model lacks {error}. Get the file again.") from error

    @classmethod
    def _around(cls, network: nn.Module, spec: dict[str, Any]) -> MonaiModel:
        structures = tuple(Structure(int(label), str(name)) for label, name in spec["structures"])
        return cls(network, structures=structures, modality=spec["modality"], **described(spec, spec["network"]))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        network: str,
        arguments: dict[str, Any] | None = None,
        roi_size: tuple[int, int, int] = (96, 96, 96),
        overlap: float = 0.5,
        preprocessing: VolumePreprocessing | dict[str, Any] | None = None,
        labels: dict[str, int] | None = None,
        name: str | None = None,
        modality: str = "",
        licence: str = "",
    ) -> MonaiModel:
        """Load a state dict (`.pt`, `.pth`, `.safetensors`) into `network`, made with `arguments`.

        `roi_size`: the patch, in the network's axis order. `labels`: names and their numbers. Raises `UserError` for
        an unknown network, arguments it does not take, weights that do not fit, and networks of other than one input
        channel.
        """
        source = Path(source).expanduser()
        if isinstance(preprocessing, dict):
            preprocessing = VolumePreprocessing.from_dict(preprocessing)
        built = build_network(network, arguments or {})
        fill(built, read_state_dict(source), source=source.name, what=f"MONAI's {network} with these arguments")
        structures = sorted((int(label), str(known)) for known, label in (labels or {}).items())
        spec = {
            "family": cls.family,
            "name": name or f"{network} {source.stem}",
            "network": network,
            "arguments": _plain(arguments or {}),
            "roi_size": [int(n) for n in roi_size],
            "overlap": overlap,
            "preprocessing": _plain(asdict(preprocessing or VolumePreprocessing())),
            "structures": [list(entry) for entry in structures],
            "modality": modality,
            "licence": licence,
            "weights_hash": sha256_of_file(source),
            "weights_bytes": source.stat().st_size,
        }
        if len(roi_size) != 3 or min(roi_size) < 1 or not 0 <= overlap < 1:
            raise UserError(
                f"A window of {tuple(roi_size)} that overlaps by {overlap} cannot be. Try (96, 96, 96), 0.5."
            )
        return cls._around(built, spec)

    def default_ignore(self) -> tuple[str, ...]:
        """Layers that these networks hold but never run at inference, so that no input of theirs is ever seen."""
        return _NEVER_RUN

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """Patches (1, 1, *roi_size) of the preprocessed scan."""
        require_usable(volume)
        data, turned = self.prepared(volume)
        region = self._spatial(turned.apply(calibration_region(volume, selection, progress)).astype(np.float32))
        region = _resized(region, data.shape[1:], "nearest")[0].numpy() > 0
        if not region.any():
            region[:] = True
        corners = choose_patches(region, self.roi_size, count=selection.count, seed=selection.seed, axis=0)
        for done, corner in enumerate(corners):
            if progress:
                progress.report(done / len(corners), f"Preparing patch {done + 1} of {len(corners)}")
            yield CalibrationBatch((patch_of(data, corner, self.roi_size)[None],))

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Logits (1, classes, *roi_size)."""
        return first_output(network(inputs[0].to(device_of(network))))

    def parts(self) -> dict[str, Part]:
        """ "network": patches (1, 1, *roi_size) -> logits (1, classes, *roi_size)."""
        return network_part(self.network, (1, 1, *self.roi_size))

    @torch.inference_mode()
    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """Labels on the volume's own grid; logits are resampled, not labels."""
        progress = begin_without_boxes(self.name, volume, prompt, progress)
        began = time.perf_counter()
        data, turned = self.prepared(volume)
        ready = time.perf_counter()
        logits, fallback = sliding_window_logits(
            self, data, roi_size=self.roi_size, overlap=self.overlap, progress=progress.span(0.05, 0.9)
        )
        seen = time.perf_counter()
        progress.report(0.9, "Resampling to the scan's grid")
        shape = tuple(np.array(volume.shape)[list(turned.order)])
        target = shape[::-1] if self.preprocessing.axes == "ijk" else shape
        logits = _resized(logits, target, "trilinear")
        labels = (logits.argmax(0) if logits.shape[0] > 1 else logits[0] > 0).numpy()
        labels = turned.undo(labels.T if self.preprocessing.axes == "ijk" else labels)
        structures = self.structures or named_by_number(logits.shape[0])
        stages = {"preprocess": ready - began, "network": seen - ready, "resample": time.perf_counter() - seen}
        progress.report(1.0, "Segmented")
        labels = np.ascontiguousarray(labels, dtype=label_type(structures))
        return Segmentation(labels, volume, structures, self.name, stages=stages, fallback=fallback)

    def prepared(self, volume: Volume) -> tuple[torch.Tensor, Reorientation]:
        """The network's input (1, *spatial), float32, and how the scan was turned for it."""
        settings = self.preprocessing
        turned = Reorientation.to(volume, settings.orientation) if settings.orientation else Reorientation()
        array = _scaled(turned.apply(volume.array).astype(np.float32), settings)
        data = self._spatial(array)
        if settings.spacing is not None:
            own = np.array(volume.spacing)[list(turned.order)]
            shape = [max(1, round(n * s / t)) for n, s, t in zip(array.shape, own, settings.spacing, strict=True)]
            data = _resized(data, tuple(shape[::-1] if settings.axes == "ijk" else shape), "trilinear")
        return data, turned

    def _spatial(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.T if self.preprocessing.axes == "ijk" else array))[None]


def build_network(name: str, arguments: dict[str, Any]) -> nn.Module:
    """An untrained network of `monai.networks.nets`. Raises `UserError` when it cannot be built as asked."""
    import monai.networks.nets as nets

    known = {network.lower(): network for network in MONAI_NETWORKS}
    if name.lower() not in known:
        raise UserError(f"MONAI's {name or 'network'} is not known here. Choose one of {', '.join(MONAI_NETWORKS)}.")
    kind = getattr(nets, known[name.lower()])
    accepted = inspect.signature(kind).parameters
    foreign = [key for key in arguments if key not in accepted]
    if foreign:
        raise UserError(f"MONAI's {name} takes no {', '.join(foreign)}. It takes {', '.join(accepted)}.")
    channels = arguments.get("in_channels", 1)
    if channels != 1:
        raise UserError(f"This {name} takes {channels} channels, a scan here is one. Choose a network of one channel.")
    try:
        return kind(**_with_defaults(arguments, accepted))
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"MONAI's {name} cannot be built ({error}). Give the arguments that it was trained with."
        ) from error


def _with_defaults(arguments: dict[str, Any], accepted: Any) -> dict[str, Any]:
    """Three dimensions and one input channel go without saying."""
    obvious = {"spatial_dims": 3, "in_channels": 1}
    filled = {k: v for k, v in obvious.items() if k in accepted and k not in arguments} | arguments
    return {key: _tuples(value) for key, value in filled.items()}


def _tuples(value: Any) -> Any:
    """Lists as tuples: MONAI takes a pair such as ("group", {"num_groups": 8}) as a tuple only."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def _scaled(array: np.ndarray, settings: VolumePreprocessing) -> np.ndarray:
    """Intensities as the settings ask; `array` is the caller's to lose."""
    if settings.intensity == "range":
        (low, high), (black, white) = settings.source_range, settings.target_range
        np.clip(array, low, high, out=array)
        return (array - low) / (high - low) * (white - black) + black
    if settings.intensity == "none":
        return array
    chosen = array != 0 if settings.intensity == "nonzero-zscore" else np.ones(array.shape, dtype=bool)
    values = array[chosen]
    deviation = float(values.std()) if values.size else 0.0
    if deviation > 0:
        array[chosen] = (values - values.mean()) / deviation
    return array


def _resized(data: torch.Tensor, shape: tuple[int, ...], mode: str) -> torch.Tensor:
    """(channels, *spatial) on a grid of `shape` over the same extent."""
    if tuple(data.shape[1:]) == tuple(shape):
        return data
    return nn.functional.interpolate(data[None], size=tuple(int(n) for n in shape), mode=mode)[0]


def _plain(value: Any) -> Any:
    """Tuples as lists, so that JSON gives back what went in."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
