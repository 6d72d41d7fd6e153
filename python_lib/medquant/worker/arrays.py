"""Arrays between processes: files of numpy's in the private folder, opened without being read."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medquant.errors import UserError
from medquant.evaluation.comparison import ModelFacts
from medquant.imaging.volume import Volume
from medquant.imaging.windows import guess_modality
from medquant.segmentation import Execution, Segmentation, Structure


def open_array(folder: Path, name: str) -> np.ndarray:
    """The array called `name` in the folder, read as it is used. Raises `UserError` where it is gone or damaged."""
    if Path(name).name != name:
        raise ValueError(f"{name} is not the name of a file in the private folder")
    try:
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"The data handed over as {name} cannot be read ({error}). Try again.") from error


def write_array(folder: Path, stem: str, array: np.ndarray) -> str:
    """Write an array under a new name, which is returned; whole before it has the name."""
    name = f"{stem}-{secrets.token_hex(6)}.npy"
    temporary = folder / f".{name}"
    with temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    temporary.replace(folder / name)
    return name


def open_volume(folder: Path, told: dict[str, Any]) -> Volume:
    """The scan of `{"array", "ijk_to_lps", "modality", "name"}`. Raises `UserError` for one that is not usable."""
    array = open_array(folder, told["array"])
    if array.ndim != 3 or array.dtype.kind not in "iufb":
        raise UserError("The scan is not a three-dimensional grey picture. Choose another volume.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError("The scan has voxels that are not finite numbers. Replace them by the value of air.")
    modality = told.get("modality") or guess_modality(array)
    return Volume(array, np.array(told["ijk_to_lps"], dtype=float), told.get("name") or "scan", modality)


def write_labels(folder: Path, stem: str, labels: np.ndarray) -> dict[str, Any]:
    """Labels on the scan's grid as `array` and `offset`: the part that holds them all, and the voxel where it begins.

    Whoever shows them then has to look at no more than there is.
    """
    part = []
    for axis in range(3):
        found = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        part.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 1))
    return {"array": write_array(folder, stem, labels[tuple(part)]), "offset": [one.start for one in part]}


def _whole_labels(folder: Path, told: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Labels on the scan's grid, from a part of it that begins at `offset` or from all of it."""
    part = open_array(folder, told["array"])
    if part.shape == shape:
        return part
    begin = tuple(told.get("offset") or (0,) * len(shape))
    ends = tuple(start + size for start, size in zip(begin, part.shape, strict=False))
    if part.ndim != len(shape) or min(begin) < 0 or any(end > size for end, size in zip(ends, shape, strict=True)):
        raise UserError("The masks do not lie on the scan's grid. Segment this scan again.")
    whole = np.zeros(shape, part.dtype)
    whole[tuple(map(slice, begin, ends))] = part
    return whole


def segmentation_of(folder: Path, told: dict[str, Any], volume: Volume) -> Segmentation:
    """The masks that `told_of` has told of, or labels of another origin: `{"array", "labels": {value: name}}`."""
    labels = _whole_labels(folder, told, volume.shape)
    structures = tuple(Structure(int(value), name) for value, name in told["labels"].items())
    execution = told.get("execution")
    return Segmentation(
        labels,
        volume,
        structures,
        told.get("model_name", ""),
        told.get("seconds"),
        told.get("peak_memory_mb"),
        told.get("stages") or {},
        Execution(**execution) if execution else None,
    )


def told_of(folder: Path, stem: str, found: Segmentation, facts: ModelFacts) -> dict[str, Any]:
    """Masks as a message: the part of the grid that holds labels in a file, everything else beside it."""
    return {
        **write_labels(folder, stem, found.labels),
        "labels": {str(structure.label): structure.name for structure in found.structures},
        "model_name": facts.name,
        "seconds": found.seconds,
        "peak_memory_mb": found.peak_memory_mb,
        "stages": found.stages,
        "execution": found.execution and asdict(found.execution),
        "facts": asdict(facts),
    }
