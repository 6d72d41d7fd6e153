"""Quantized models that were made in the panel, kept for this user: opening a session again needs no quantizing.

A model is known by a hash of what it was made from: weights, recipe, and the voxels of the scan with the choice of its
slices. The files are ordinary quantized models; they hold no image, and no name of a scan.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import medquant
from medquant.artifact import SUFFIX, is_artifact
from medquant.deploy.cache import cache_folder

if TYPE_CHECKING:
    from medquant.imaging.volume import Volume
    from medquant.models.base import CalibrationSelection, Model
    from medquant.prompts import BoxPrompt
    from medquant.recipe import Recipe

LIMIT_BYTES = 4 * 2**30
"""What they may take on disk; the ones used longest ago go first."""


def quantized_folder() -> Path:
    """Where they are kept."""
    return cache_folder() / "quantized"


def place_of(
    model: Model, recipe: Recipe, volume: Volume, selection: CalibrationSelection, held_out: BoxPrompt | None = None
) -> Path:
    """The file of a model that is quantized by this recipe with slices of this scan, whether it is there or not.

    `held_out`: boxes whose slices do not calibrate it.
    """
    facts = (
        medquant.__version__,
        model.name,
        json.dumps(model.identity, sort_keys=True),
        json.dumps(recipe.to_dict(), sort_keys=True),
        repr(selection),
        volume.content_hash(),
        repr(held_out),
    )
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    return quantized_folder() / f"w{recipe.weights.bits}-{key}{SUFFIX}"


def is_kept(place: Path) -> bool:
    """Whether a model is there; then it counts as used now."""
    if not is_artifact(place):
        return False
    with suppress(OSError):
        os.utime(place)
    return True


def shrink(latest: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Remove the models used longest ago until the others are within the limit; `latest` stays."""
    found = []
    for path in quantized_folder().glob(f"*{SUFFIX}"):
        with suppress(OSError):  # another process may remove it meanwhile
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    held = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if held <= limit_bytes:
            return
        if path != latest:
            with suppress(OSError):
                path.unlink()
                held -= size
