"""What a person types, read into what the engine takes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.errors import UserError
from medquant.prompts import Box, BoxPrompt, Plane

if TYPE_CHECKING:
    from medquant.imaging.volume import Volume
    from medquant.models.base import Model
    from medquant.progress import CancelCheck, ProgressCallback
    from medquant.segmentation import Segmentation

PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_UNITS_IN_MB = {"": 1.0, "KB": 1e-3, "MB": 1.0, "GB": 1e3}


def open_volume(
    path: str, *, series: str | None = None, component: int | None = None, frame: int | None = None
) -> Volume:
    """Read a scan. Raises `UserError`."""
    from medquant.imaging.reading import read_volume

    return read_volume(path, series=series_choice(series), component=component, frame=frame)


def series_choice(text: str | None) -> int | str | None:
    """A series number, or a UID."""
    return int(text) if text is not None and text.isdigit() else text


def file_word(name: str) -> str:
    """A name as a part of a file name: letters, digits, dots and hyphens."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.").lower() or "scan"


def open_model(
    spec: str,
    weights: str | None,
    device: str,
    options: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Any:
    """Load a model with `NAME=VALUE` options of its own. Raises `UserError` for options it does not have."""
    from medquant.models.registry import load_model

    chosen = parse_model_options(options or ())
    return load_model(spec, weights=weights, device=device, progress=progress, cancelled=cancelled, **chosen)


def open_original(
    name: str,
    weights: str | None,
    device: str,
    options: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> Model:
    """Load a model as `open_model` does. Raises `UserError` for one that is quantized already."""
    from medquant.quantized_model import require_original

    return require_original(open_model(name, weights, device, options, progress, cancelled))


def parse_model_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` words; values are read as JSON where they are JSON (numbers, lists, true), else as text."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"{pair!r} is not an option of a model. Write it as NAME=VALUE, e.g. window_level=40.")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def check_plane(plane: str | None) -> Plane | None:
    """A plane's name, or None. Raises `UserError` for another word."""
    if plane is not None and plane not in PLANES:
        raise UserError(f"There is no plane {plane!r}. Choose axial, coronal or sagittal.")
    return plane


def parse_boxes(
    index_boxes: Sequence[str] | None, world_boxes: Sequence[str] | None = None, plane: str | None = None
) -> BoxPrompt | None:
    """Boxes as typed, labelled 1, 2, 3 ... in order; boxes of one name share a label. None where there are none."""
    typed = [(text, "ijk") for text in index_boxes or ()] + [(text, "world") for text in world_boxes or ()]
    chosen_plane = check_plane(plane)
    boxes: list[Box] = []
    labels: dict[str, int] = {}
    for number, (text, space) in enumerate(typed, start=1):
        name, numbers = _split_box(text)
        name = name or ("structure" if len(typed) == 1 else f"structure {number}")
        label = labels.setdefault(name, len(labels) + 1)
        box = Box(numbers[:3], numbers[3:], space=space, label=label, name=name, plane=chosen_plane)
        boxes.append(_ordered(box) if space == "ijk" else box)
    return BoxPrompt(tuple(boxes)) if boxes else None


def _split_box(text: str) -> tuple[str, tuple[float, ...]]:
    name, equals, numbers = text.rpartition("=")
    try:
        values = tuple(float(word) for word in re.split(r"[,\s]+", numbers.strip()))
    except ValueError:
        values = ()
    if len(values) != 6 or (equals and not name.strip()):
        raise UserError(f"{text!r} is not a box. Give six numbers: i0,j0,k0,i1,j1,k1, or name=i0,j0,k0,i1,j1,k1.")
    return name.strip(), values


def _ordered(box: Box) -> Box:
    """Any two opposite corners make the same box."""
    lower = tuple(min(pair) for pair in zip(box.lower, box.upper, strict=True))
    upper = tuple(max(pair) for pair in zip(box.lower, box.upper, strict=True))
    return replace(box, lower=lower, upper=upper)


def parse_names(text: str | None) -> dict[int, str]:
    """`1=spleen,5=liver` as {1: "spleen", 5: "liver"}. Raises `UserError`."""
    names = {}
    for part in filter(None, (word.strip() for word in (text or "").split(","))):
        label, equals, name = part.partition("=")
        if not equals or not label.strip().isdigit() or not name.strip():
            raise UserError(f"{part!r} does not name a label. Write label=name, e.g. 1=spleen,5=liver.")
        names[int(label)] = name.strip()
    return names


def read_reference(volume: Volume, path: str, names: str | None = None, structures: str | None = None) -> Segmentation:
    """A label file on the grid of `volume`, with names for its labels and only the structures wanted."""
    from medquant.imaging.reading import read_labels

    return select_structures([read_labels(path, volume, names=parse_names(names))], structures)[0]


def select_structures(masks: Sequence[Segmentation], wanted: str | None) -> list[Segmentation]:
    """Of each only the structures named in `wanted` ("liver,spleen"; label numbers will do too); None: all of them.

    A mask without names has them by label, as everywhere. Raises `UserError` for a structure that none of them has.
    """
    from medquant.evaluation.structures import find_structure

    if wanted is None:
        return list(masks)
    words = [word.strip().lower() for word in wanted.split(",") if word.strip()]
    there = [structure for mask in masks for structure in mask.structures]
    chosen = [next((s for s in there if word in (s.name.lower(), str(s.label))), None) for word in words]
    if not words or None in chosen:
        names = ", ".join(dict.fromkeys(s.name for s in there)) or "none"
        missing = ", ".join(word for word, found in zip(words, chosen, strict=True) if found is None) or wanted
        raise UserError(f"There is no structure {missing}. The labels have: {names} (--names gives others).")
    kept = [{find_structure(structure, mask) for structure in chosen} for mask in masks]
    return [
        replace(mask, structures=tuple(s for s in mask.structures if s in found))
        for mask, found in zip(masks, kept, strict=True)
    ]


def data_folder(given: str | None) -> Path:
    """The real scans and weights. Raises `UserError` where they are not."""
    if not given:
        raise UserError(
            "This measures real scans and weights, which are not part of medquant. "
            "Give their folder with --data or in MEDQUANT_TEST_DATA."
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Correct --data, or MEDQUANT_TEST_DATA where that is not given.")
    return folder


def existing_path(given: str, option: str) -> Path:
    """A file or folder that is there, from the root, so that other processes find it. Raises `UserError`."""
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise UserError(f"There is no file or folder {path}. Correct {option}.")
    return path


def name_or_path(spec: str) -> str:
    """A model's name, or its path from the root, so that other processes find it."""
    from medquant.models.registry import list_models

    names, path = {entry.name.partition(":")[0] for entry in list_models()}, Path(spec).expanduser()
    return spec if spec.partition(":")[0] in names or not path.exists() else str(path.absolute())


def parse_memory(text: str | None) -> float | None:
    """`2GB`, `500MB` or `500` as megabytes (10^6 bytes). Raises `UserError`."""
    if text is None:
        return None
    match = re.fullmatch(r"([\d.]+)\s*([KMG]?B?)", text.strip().upper())
    unit = match and (match[2] if match[2].endswith("B") or not match[2] else match[2] + "B")
    try:
        megabytes = float(match[1]) * _UNITS_IN_MB[unit]
    except (TypeError, ValueError, KeyError):
        megabytes = 0.0
    if megabytes <= 0:
        raise UserError(f"{text!r} is not an amount of memory. Write it as 500MB or 2GB.")
    return megabytes
