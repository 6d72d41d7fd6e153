"""An nnU-Net results folder: found, checked, and read without running anything that it might carry."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.models.weight_files import numpy_types, read_checkpoint, read_json

_LAYOUT = (
    "Give the folder that holds plans.json, dataset.json and fold_0/checkpoint_final.pth "
    "(nnU-Net calls it like nnUNetTrainer__nnUNetPlans__3d_fullres)"
)
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_PREFERRED = ("3d_fullres", "3d_lowres", "2d")


@dataclass(frozen=True)
class ResultsFolder:
    """What a results folder says, and its state dicts, one for each fold."""

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    trainer: str
    folds: tuple[str, ...]
    mirroring_axes: tuple[int, ...] | None
    states: tuple[dict[str, torch.Tensor], ...]
    weights_hash: str
    weights_bytes: int
    """Of all its checkpoints as they lie on disk; nnU-Net stores the optimizer's state in them too."""


def read_results_folder(
    folder: str | Path,
    *,
    configuration: str | None = None,
    folds: int | str | tuple[int | str, ...] | None = None,
    checkpoint: str | None = None,
) -> ResultsFolder:
    """Read a trained model.

    `folder`: of one trainer, plans and configuration, or of the whole dataset above it (`configuration` then
    chooses). `folds`: none takes every fold with a checkpoint. `checkpoint`: a file name; None takes the final one,
    else the best. Raises `UserError` that says what is missing and where it was looked for.
    """
    folder = Path(folder).expanduser()
    folds = (folds,) if isinstance(folds, int) else folds
    if folder.is_file() or re.fullmatch(r"fold_\w+", folder.name):  # a checkpoint, or a fold, was pointed at
        fold = folder.parent if folder.is_file() else folder
        folder, folds = fold.parent, folds or (fold.name.removeprefix("fold_"),)
    folder = configuration_folder(folder, configuration)
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    files = _checkpoints(folder, folds, checkpoint)
    contents = [_read(file) for file in files.values()]
    first = contents[0]
    name = first["init_args"]["configuration"]
    if name not in plans.get("configurations", {}):
        raise UserError(f"{folder / 'plans.json'} knows no configuration {name}. It belongs to another training.")
    axes = first.get("inference_allowed_mirroring_axes")
    hashes = [sha256_of_file(file) for file in files.values()]
    return ResultsFolder(
        plans=plans,
        dataset=dataset,
        configuration=name,
        trainer=str(first["trainer_name"]),
        folds=tuple(files),
        mirroring_axes=None if axes is None else tuple(int(axis) for axis in axes),
        states=tuple(content["network_weights"] for content in contents),
        weights_hash=hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        weights_bytes=sum(file.stat().st_size for file in files.values()),
    )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """nnU-Net prints advice on environment variables that only training needs, while it is imported."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def configuration_folder(folder: Path, configuration: str | None = None) -> Path:
    """The folder with plans.json: `folder`, or one below it. Raises `UserError` where there is none."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. {_LAYOUT}.")
    if any(folder.glob("plans.pkl")) or any(folder.glob("*/plans.pkl")):
        raise UserError(
            f"{folder} comes from nnU-Net version 1. Train it again with version 2; its weights do not fit."
        )
    if (folder / "plans.json").is_file():
        if not (folder / "dataset.json").is_file():
            raise UserError(f"{folder} has no dataset.json. Copy it from the training machine, beside plans.json.")
        return folder
    found = {plans.parent.name.rpartition("__")[2]: plans.parent for plans in sorted(folder.glob("*/plans.json"))}
    if not found:
        raise UserError(f"There is no plans.json in {folder} nor one level below. {_LAYOUT}.")
    wanted = configuration or next((name for name in _PREFERRED if name in found), None)
    if wanted not in found:
        raise UserError(f"{folder} has the configurations {', '.join(found)}, not {wanted}. Choose one of these.")
    return configuration_folder(found[wanted])


def _checkpoints(folder: Path, folds: str | tuple[int | str, ...] | None, checkpoint: str | None) -> dict[str, Path]:
    """The checkpoint of each fold, in ascending order of folds."""
    names = (checkpoint,) if checkpoint else _CHECKPOINTS
    there = {d.name.removeprefix("fold_"): d for d in sorted(folder.glob("fold_*")) if d.is_dir()}
    if not there:
        raise UserError(f"There is no folder fold_0 (nor any other fold) in {folder}. {_LAYOUT}.")
    if not folds:
        # as nnU-Net finds them: the numbered folds, fold_all only by name or alone
        numbered = [fold for fold in there if fold.isdigit()]
        wanted = [f for f in numbered if any((there[f] / n).is_file() for n in names)] or numbered or list(there)
    else:
        wanted = [str(f).strip() for f in (folds.split(",") if isinstance(folds, str) else folds)]
    files: dict[str, Path] = {}
    for fold in wanted:
        if fold not in there:
            raise UserError(f"{folder} has no fold_{fold}, only {', '.join(f'fold_{f}' for f in there)}. Choose these.")
        file = next((there[fold] / name for name in names if (there[fold] / name).is_file()), None)
        if file is None:
            raise UserError(
                f"{there[fold]} has no {' nor '.join(names)}. Finish the training, or name the checkpoint there is."
            )
        files[fold] = file
    return files


def _read(file: Path) -> dict[str, Any]:
    content = read_checkpoint(file, allowed=numpy_types())
    needed = ("network_weights", "init_args", "trainer_name")
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{file} lacks {', '.join(missing)}: it is no checkpoint of nnU-Net version 2. {_LAYOUT}.")
    return content
