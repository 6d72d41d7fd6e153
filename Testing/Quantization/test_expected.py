"""Sizes told beforehand are near those of the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medquant import IntWeights, PerGroup, Recipe, load_model, quantize
from medquant.expected import expected_bytes
from medquant.models.base import CalibrationBatch


@pytest.fixture(scope="module")
def model():
    """The embedded promptable model."""
    return load_model("embedded", device="cpu")


GRIDS = [*(IntWeights(bits=bits) for bits in (8, 4, 3)), IntWeights(bits=4, granularity=PerGroup(64))]


@pytest.mark.parametrize("weights", GRIDS)
def test_the_file_is_as_large_as_was_told(model, weights: IntWeights, tmp_path: Path) -> None:
    recipe = Recipe(weights=weights, method="rtn")
    size = model.preprocessing.image_size
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 3, size, size, generator=generator)
    batch = CalibrationBatch((picture, torch.tensor([[[10.0, 10.0, 90.0, 90.0]]])))
    made = quantize(model, [batch], recipe=recipe)
    assert expected_bytes(model, recipe) == pytest.approx(made.save(tmp_path / "model.mq.safetensors"), rel=0.05)


def test_layers_that_are_kept_precise_count(model) -> None:
    plain = expected_bytes(model, Recipe())
    kept = expected_bytes(model, Recipe(overrides={"vision_encoder.layers.0.mlp.*": IntWeights(bits=8)}))
    floating = expected_bytes(model, Recipe(overrides={"vision_encoder.layers.0.mlp.*": None}))
    assert plain < kept < floating
