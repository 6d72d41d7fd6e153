"""Quantized models that are kept for the user: known by what they were made from, bounded, cleared."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medquant.cache_place import benchmark_folder
from medquant.deploy import quantized_models
from medquant.deploy.cache import cache_folder
from medquant.deploy.kept import clear_kept, kept
from medquant.deploy.quantized_models import is_kept, place_of, quantized_folder, shrink
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.prompts import Box, BoxPrompt
from medquant.recipe import IntWeights, Recipe

IDENTITY = {"family": "medsam", "weights_hash": "abc"}
MODEL = SimpleNamespace(name="Small", identity=IDENTITY)
SCAN = Volume(np.zeros((3, 4, 5), np.int16), np.eye(4), modality="CT")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def place(model: object = MODEL, recipe: Recipe | None = None, scan: Volume = SCAN, **selection: object) -> Path:
    return place_of(model, recipe or Recipe(), scan, CalibrationSelection(**selection))


def test_a_model_is_known_by_what_it_was_made_from() -> None:
    kept_at = place()
    assert kept_at == place(recipe=Recipe()) and kept_at.parent == quantized_folder()
    weights = IntWeights(bits=4)
    others = [
        place(SimpleNamespace(name="Small", identity=IDENTITY | {"weights_hash": "def"})),
        place(SimpleNamespace(name="Small", identity=IDENTITY | {"overlap": 0.5})),
        place(recipe=Recipe(method="rtn")),
        place(recipe=Recipe(weights=weights, overrides={"a": replace(weights, bits=8)})),
        place(scan=SCAN.with_array(SCAN.array + np.int16(1))),
        place(scan=Volume(SCAN.array, np.diag([1.0, 1.0, 2.0, 1.0]), modality="CT")),
        place(count=3),
        place_of(MODEL, Recipe(), SCAN, CalibrationSelection(), BoxPrompt((Box((0, 0, 0), (1, 1, 1)),))),
    ]
    assert len({kept_at, *others}) == 9
    assert not is_kept(kept_at)


def test_what_is_no_quantized_model_is_not_found() -> None:
    kept_at = place()
    kept_at.parent.mkdir(parents=True)
    kept_at.write_bytes(b"something else")
    assert not is_kept(kept_at)


def test_the_models_used_longest_ago_go_first_and_the_latest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized_folder().mkdir(parents=True)
    paths = [quantized_folder() / f"w4-{name}{quantized_models.SUFFIX}" for name in "abcd"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(1000))
        os.utime(path, (number, number))
    shrink(paths[0], limit_bytes=2500)
    assert [path.exists() for path in paths] == [True, False, False, True]
    shrink(paths[0], limit_bytes=10)
    assert [path.exists() for path in paths] == [True, False, False, False]


@pytest.mark.parametrize(
    ("title", "folder"),
    [("Quantized models", quantized_folder), ("Models of benchmarks on a cluster", benchmark_folder)],
)
def test_they_are_listed_and_cleared_with_everything_else(title: str, folder: Callable[[], Path]) -> None:
    folder().mkdir(parents=True)
    (folder() / f"w4-a{quantized_models.SUFFIX}").write_bytes(bytes(1234))
    told = next(one for one in kept() if one.title == title)
    assert (told.count, told.bytes, told.folder.parent) == (1, 1234, cache_folder())
    assert clear_kept() == 1234
    assert next(one for one in kept() if one.title == title).count == 0
