"""The process that reads scans for the window, so that neither a slow disk nor a decoder ever stops its drawing.

`python -m medquant_desktop.scan_reader` answers each JSON line on its input with one on its output. A request is
`{"path", "folder", "series"?, "component"?, "frame"?, "labels_on"?}`: what to read, and a folder of the window's own
for the array. With `labels_on` (`{"shape", "ijk_to_lps"}`, the grid of the scan that is open) a file that holds labels
is read as a segmentation on that grid. The answer has a `kind`:

- `scan`: `array` (file, voxels (k, j, i)), `ijk_to_lps`, `name`, `modality`, `window` [level, width], `body`
  [first, last] voxel (i, j, k), `told`: what the user should know of how it was read, or ""; with `sample`
  in place of `path` the CT phantom, and then `labels` like the next kind
- `labels`: `array` (file, on the grid asked for), `names` {label: name}, `name`
- `series`: `series`, those of a folder to choose from; `choice`: `what` ("component" or "frame") and `count`
- `surface` (for `surface_of`, FP32's and the quantized model's labels, each an `array` (file) and the voxel `begin`
  (i, j, k) of the scan at which it begins, or null; and `ijk_to_ras`): `parts`, files of points, triangles, normals
  and mm apart
- `error`: `message`, for the user
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from medquant.imaging.volume import Volume

SAMPLE_SHAPE, SAMPLE_SPACING = (40, 384, 384), (4.0, 1.0, 1.0)
LABEL_NAME = re.compile(r"(^|[^a-z])(labels?|labelmap|segmentation|seg|masks?)([^a-z]|$)")
"""A file name that says that the file holds labels."""


def serve() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not become an answer
    _warm_up()
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request; every failure becomes a sentence for the user."""
    from medquant.errors import UserError

    try:
        return _read(request)
    except UserError as error:
        choice = re.search(r"with (component|frame)=0 to \1=(\d+)", str(error))
        if choice:
            return {"kind": "choice", "what": choice[1], "count": int(choice[2]) + 1}
        return {"kind": "error", "message": str(error)}
    except MemoryError:
        return {"kind": "error", "message": "There is not enough memory for this scan. Close other programs."}
    except Exception as error:  # a damaged file can fail anywhere in a decoder
        name = Path(request.get("path", "The sample")).name
        return {
            "kind": "error",
            "message": f"{name} cannot be read ({type(error).__name__}). Check that it is a scan, or export it again.",
        }


def holds_labels(path: Path) -> bool:
    """Whether a file is a segmentation rather than a scan, by its name or, for DICOM, by its kind."""
    from medquant.imaging.dicom import is_dicom_file
    from medquant.imaging.itk_file import known_suffix

    if path.is_dir() or not path.exists():
        return False
    if known_suffix(path):
        return bool(LABEL_NAME.search(path.name.lower()))
    if not is_dicom_file(path):
        return False
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"])
    except pydicom.errors.InvalidDicomError:
        return False
    return header.get("Modality") == "SEG"


def _read(request: dict[str, Any]) -> dict[str, Any]:
    from medquant.errors import Notice
    from medquant.imaging.reading import read_volume

    folder = Path(request["folder"])
    if request.get("sample"):
        return _make_sample(folder)
    if "surface_of" in request:
        return _make_surface(request, folder)
    path = Path(request["path"]).expanduser()
    if holds_labels(path):
        return _read_labels(path, folder, request.get("labels_on"))
    choice = {name: request.get(name) for name in ("series", "component", "frame")}
    if path.is_dir() and choice["series"] is None:
        several = _several_series(path)
        if several:
            return {"kind": "series", "series": several}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        volume = read_volume(path, **choice)
    told = [str(one.message) for one in heard if issubclass(one.category, Notice)]
    return {**_scan(volume, folder), "told": " ".join(told)}


def body_of(array: np.ndarray, air: float | None = None) -> list[list[int]]:
    """First and last voxel (i, j, k) around nearly all of what is denser than air, or than the mean.

    Rows with a fiftieth of the fullest row's tissue do not count: table, arms' tips and noise.
    """
    steps = tuple(max(1, size // 128) for size in array.shape)
    coarse = array[:: steps[0], :: steps[1], :: steps[2]]
    tissue = coarse > (float(coarse.mean()) if air is None else air)
    first, last = [0, 0, 0], [size - 1 for size in array.shape]
    for axis, step in enumerate(steps):
        counts = tissue.sum(axis=tuple(other for other in range(3) if other != axis))
        full = np.flatnonzero(counts > counts.max() / 50)
        if full.size:
            first[axis] = int(full[0]) * step
            last[axis] = min(array.shape[axis] - 1, (int(full[-1]) + 1) * step)
    return [first[::-1], last[::-1]]


def _scan(volume: Volume, folder: Path) -> dict[str, Any]:
    from medquant.imaging.windows import window_of

    window = window_of(volume)
    return {
        "kind": "scan",
        "array": _save(_for_mrml(volume.array), folder),
        "ijk_to_lps": volume.affine.tolist(),
        "name": volume.name,
        "modality": volume.modality,
        "body": body_of(volume.array, air=-300.0 if volume.modality == "CT" else None),
        "window": [(window.lower + window.upper) / 2.0, max(window.upper - window.lower, 1e-6)],
    }


def _make_sample(folder: Path) -> dict[str, Any]:
    from medquant.embedded.phantom import make_phantom
    from medquant.imaging.volume import Volume

    array, labels, names, affine = make_phantom(shape=SAMPLE_SHAPE, spacing=SAMPLE_SPACING)
    scan = _scan(Volume(array, affine, name="Sample CT (phantom)", modality="CT"), folder)
    return {**scan, "labels": {"array": _save(labels, folder), "names": names, "name": "Reference of the sample"}}


def _read_labels(path: Path, folder: Path, grid: dict[str, Any] | None) -> dict[str, Any]:
    from medquant.errors import UserError
    from medquant.imaging.labels import read_labels
    from medquant.imaging.volume import Volume

    if grid is None:
        raise UserError(f"{path.name} holds a segmentation. Open its scan first, then open this file again.")
    # Only the grid matters: an array of one zero, seen as if it had the scan's shape, costs nothing.
    scan = Volume(np.broadcast_to(np.uint8(0), grid["shape"]), np.array(grid["ijk_to_lps"]))
    found = read_labels(path, scan)
    names = {structure.label: structure.name for structure in found.structures}
    return {"kind": "labels", "array": _save(found.labels, folder), "names": names, "name": found.model_name}


def _make_surface(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    from medquant_desktop.surface_maker import surface_of

    told = [part for part in request["surface_of"] if part is not None]
    arrays = [np.load(part["array"]) for part in told]
    lower = np.min([part["begin"] for part in told], axis=0)
    upper = np.max([np.add(part["begin"], array.shape[::-1]) for part, array in zip(told, arrays)], axis=0)
    labels = [np.zeros((upper - lower)[::-1], bool) for _model in request["surface_of"]]
    for place, part in enumerate(request["surface_of"]):
        if part is not None:
            array = arrays[told.index(part)]
            begin = np.subtract(part["begin"], lower)[::-1]
            labels[place][tuple(slice(first, first + size) for first, size in zip(begin, array.shape))] = array > 0
    matrix = np.array(request["ijk_to_ras"])
    matrix[:3, 3] += matrix[:3, :3] @ lower
    return {"kind": "surface", "parts": [_save(one, folder) for one in surface_of(*labels, matrix)]}


def _several_series(folder: Path) -> list[dict[str, Any]]:
    """The usable series of a folder where there is more than one, else none."""
    from medquant.imaging.reading import list_series

    usable = [series for series in list_series(folder) if series.usable]
    fields = ("number", "description", "modality", "count", "size")
    return [{name: getattr(one, name) for name in fields} for one in usable] if len(usable) > 1 else []


def _for_mrml(array: np.ndarray) -> np.ndarray:
    """The same values in a type that MRML's files can hold."""
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        return array.astype(np.int32 if abs(array).max() < 2**31 else np.float64)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _save(array: np.ndarray, folder: Path) -> str:
    target = folder / f"{uuid.uuid4().hex}.npy"
    np.save(target, array)
    return str(target)


def _warm_up() -> None:
    """Import what takes a second before the first file is asked for."""
    import medquant.imaging.reading
    import medquant.imaging.windows  # noqa: F401


if __name__ == "__main__":
    serve()
